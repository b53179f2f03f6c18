//! Documents of the shape of real public APIs, imported whole.

use std::time::{Duration, Instant};

use hub_adapters::openapi::{Document, Import, ImportError, Imported, Options};
use hub_operations::{Definition, Registry};
use hub_protocol::{Json, OperationType};
use serde_json::{Map, Value, json};

const PETSTORE: &str = include_str!("documents/petstore.yaml");
const FORGE: &str = include_str!("documents/forge.json");
const PAYMENTS: &str = include_str!("documents/payments.yaml");
const WEATHER: &str = include_str!("documents/weather.yaml");

fn import(text: &str, name: &str) -> Import {
    Document::parse(text).unwrap().operations(&Options::new(name)).unwrap()
}

fn one<'a>(import: &'a Import, name: &str) -> &'a Imported {
    let names: Vec<_> = import.operations.iter().map(|one| one.spec.name.as_str()).collect();
    import.operations.iter().find(|one| one.spec.name == name).unwrap_or_else(|| panic!("{name} of {names:?}"))
}

fn accepts(imported: &Imported, input: Value) -> bool {
    Definition::new(imported.spec.clone()).unwrap().input().check(&Json::from(input)).is_ok()
}

#[test]
fn a_document_can_not_send_requests_to_another_host_than_its_own() {
    let document = Document::parse(PETSTORE).unwrap();
    let from = |url: &str| Options { document_url: Some(url.parse().unwrap()), ..Options::new("pets") };
    assert!(document.operations(&from("http://pets.example.com/openapi.yaml")).is_ok());
    for elsewhere in ["http://docs.example.com/a", "https://pets.example.com/a", "http://pets.example.com:81/a"] {
        let error = document.operations(&from(elsewhere)).unwrap_err();
        assert!(matches!(&error, ImportError::OtherServer { .. }), "{error}");
        assert!(error.to_string().contains("http://pets.example.com"), "{error}");
    }
    let named =
        Options { base_url: Some("http://pets.example.com/v2".parse().unwrap()), ..from("http://docs.example.com/a") };
    assert!(document.operations(&named).is_ok());
}

#[test]
fn a_pet_store() {
    let import = import(PETSTORE, "pets");
    assert_eq!(import.skipped, []);
    assert_eq!(import.base.as_ref().unwrap().as_str(), "http://pets.example.com/v2");
    let list = one(&import, "listPets");
    assert_eq!((list.spec.kind, list.spec.version.as_str()), (OperationType::Query, "1.0.0"));
    assert_eq!((list.spec.title.as_deref(), list.spec.tags.as_slice()), (Some("List pets"), &["pets".to_owned()][..]));
    assert_eq!(list.spec.access_control.required_scopes, ["imported:pets"]);
    assert!(accepts(list, json!({"limit": 1, "tags": ["a"]})) && accepts(list, json!({})));
    // The exclusive bound of 3.0, and members that the document does not know.
    assert!(!accepts(list, json!({"limit": 0})) && !accepts(list, json!({"limt": 1})));
    let create = one(&import, "createPet");
    assert_eq!((create.spec.kind, &create.spec.input_schema["required"]), (OperationType::Mutation, &json!(["body"])));
    // `id` is read-only, and so not required of callers; null where it is allowed.
    assert!(accepts(create, json!({"body": {"name": "x", "photoUrls": [], "status": null}})));
    assert!(!accepts(create, json!({"body": {"name": "x", "photoUrls": [], "status": "lost"}})));
    assert!(!accepts(create, json!({"body": {"name": "x"}})));
    let get = one(&import, "getPet");
    assert_eq!(get.spec.output_schema["$ref"], "#/$defs/Pet");
    assert_eq!(get.spec.output_schema["$defs"].as_object().unwrap().keys().collect::<Vec<_>>(), ["Category", "Pet"]);
    assert_eq!(get.spec.error_schemas.len(), 1);
    assert_eq!(
        (get.spec.error_schemas[0].code.as_str(), get.spec.error_schemas[0].http_status),
        ("HTTP_404", Some(404))
    );
    assert!(accepts(get, json!({"petId": 3})) && !accepts(get, json!({})) && !accepts(get, json!({"petId": "../x"})));
    let delete = one(&import, "deletePet");
    assert!(delete.spec.tags.contains(&"deprecated".to_owned()));
    assert_eq!(delete.spec.meta.as_ref().unwrap()["deprecated"], true);
    // The key is the client's business and not the caller's.
    let members: Vec<_> = delete.spec.input_schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["petId", "reason"]);
    let photo = one(&import, "post_pets_photo");
    let file = &photo.spec.input_schema["properties"]["body"]["properties"]["file"];
    assert_eq!(file, &json!({"type": "string", "contentEncoding": "base64"}));
    assert_eq!(one(&import, "get_pets_photo").spec.output_schema["contentEncoding"], "base64");
    let login = Definition::new(one(&import, "login").spec.clone()).unwrap();
    let shown = login.input().redact(&json!({"body": {"username": "u", "password": "hunter2"}}).into());
    assert!(!shown.as_str().contains("hunter2") && shown.as_str().contains("\"u\""));
}

#[test]
fn a_code_forge() {
    let import = import(FORGE, "forge");
    let list = one(&import, "issues_list-for-repo");
    assert_eq!(list.spec.id(), "forge.issues_list-for-repo");
    assert_eq!(list.spec.description, "Lists the issues of a repository.");
    assert_eq!(list.spec.input_schema["required"], json!(["owner", "repo"]));
    assert!(accepts(list, json!({"owner": "o", "repo": "r", "state": "open", "page": 2})));
    let codes: Vec<_> = list.spec.error_schemas.iter().map(|error| error.code.as_str()).collect();
    assert_eq!(codes, ["HTTP_404", "HTTP_5XX"]);
    let output = Definition::new(list.spec.clone()).unwrap();
    let issue = json!([{"number": 1, "title": " x", "assignee": null, "labels": ["bug", {"name": "l"}], "parent": {"number": 2}}]);
    output.output().check(&issue.into()).unwrap();
    assert!(output.output().check(&json!([{"parent": {"number": "2"}}]).into()).is_err());
    assert_eq!(one(&import, "activity_stream").spec.kind, OperationType::Subscription);
    let skipped: Vec<_> = import.skipped.iter().map(|one| (one.path.as_str(), &one.reason)).collect();
    assert_eq!(skipped.len(), 2);
    assert!(matches!(skipped[0], ("/broken", ImportError::RemoteReference { .. })));
    let (path, reason) = skipped[1];
    assert!(path == "/uploads" && reason.to_string().contains("uploads.forge.example.com"), "{reason}");
}

#[test]
fn a_payment_service() {
    let import = import(PAYMENTS, "pay");
    assert_eq!(import.skipped, []);
    let list = one(&import, "GetCustomers");
    assert!(accepts(list, json!({"created": {"gt": 5}, "expand": ["data.x"]})) && accepts(list, json!({"created": 5})));
    assert!(!accepts(list, json!({"created": "x"})));
    let create = one(&import, "PostCustomers");
    assert!(accepts(create, json!({"body": {"address": {"city": "Ulm"}, "metadata": {"k": "v"}}})));
    assert_eq!(create.spec.error_schemas[0].code, "HTTP_402");
    // Customers have subscriptions of customers.
    Definition::new(create.spec.clone()).unwrap();
}

#[test]
fn a_weather_service() {
    let import = import(WEATHER, "weather");
    let weather = one(&import, "get_weather");
    assert_eq!(weather.spec.description, "Current weather");
    let members: Vec<_> = weather.spec.input_schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["bbox", "filter", "layers", "q", "units"]);
    assert!(accepts(weather, json!({"q": "Ulm", "bbox": [1, 2.5], "filter": {"a": 1}})));
}

#[test]
fn only_what_is_asked_for() {
    let mut options = Options::new("pets");
    options.only = vec!["pets".into(), "get*".into()];
    let names = |options: &Options| {
        let import = Document::parse(PETSTORE).unwrap().operations(options).unwrap();
        import.operations.into_iter().map(|one| one.spec.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&options), ["listPets", "getPet", "get_pets_photo"]);
    options.scopes = Some(Vec::new());
    let import = Document::parse(PETSTORE).unwrap().operations(&options).unwrap();
    assert!(import.operations[0].spec.access_control.required_scopes.is_empty());
    for name in ["", "a b", "a..b", "\u{e9}"] {
        let refused = Document::parse(PETSTORE).unwrap().operations(&Options::new(name));
        assert!(matches!(refused, Err(ImportError::Name(_))), "{name:?}");
    }
}

/// 600 operations over 400 schemas that refer to each other in circles, above 1 MB.
fn large() -> String {
    let mut schemas = Map::new();
    for i in 0..400 {
        let refer = |step: usize| json!({ "$ref": format!("#/components/schemas/Thing{}", (i + step) % 400) });
        let mut properties: Map<String, Value> = (0..12)
            .map(|p| {
                let text = format!(
                    "Member {p} of thing {i}, which is described at the length that is usual for such documents."
                );
                (
                    format!("member_{p}"),
                    json!({ "type": "string", "nullable": p % 2 == 0, "description": text, "pattern": "^[a-z]+$" }),
                )
            })
            .collect();
        properties.insert("self".into(), refer(0));
        properties.insert("next".into(), refer(1));
        properties.insert(
            "far".into(),
            json!({ "type": "array", "items": { "oneOf": [refer(7), refer(61), { "type": "string" }] } }),
        );
        schemas
            .insert(format!("Thing{i}"), json!({ "type": "object", "required": ["self"], "properties": properties }));
    }
    let mut paths = Map::new();
    for i in 0..200 {
        let thing = json!({ "$ref": format!("#/components/schemas/Thing{}", i * 2) });
        let answers = json!({
            "200": { "description": "ok", "content": { "application/json": { "schema": thing } } },
            "404": { "description": "none", "content": { "application/json": { "schema": thing } } },
        });
        let body = json!({ "required": true, "content": { "application/json": { "schema": thing } } });
        let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } });
        paths.insert(
            format!("/things{i}/{{id}}"),
            json!({
                "parameters": [id],
                "get": { "operationId": format!("get{i}"), "responses": answers },
                "put": { "operationId": format!("put{i}"), "requestBody": body, "responses": answers },
                "delete": { "operationId": format!("delete{i}"), "responses": { "204": { "description": "gone" } } },
            }),
        );
    }
    json!({
        "openapi": "3.0.3", "info": { "title": "Large", "version": "1.0.0" }, "servers": [{ "url": "https://large.example.com" }],
        "components": { "schemas": schemas }, "paths": paths,
    })
    .to_string()
}

#[test]
fn a_large_document() {
    let text = large();
    assert!(text.len() > 1_000_000, "{}", text.len());
    let started = Instant::now();
    let import = import(&text, "large");
    let took = started.elapsed();
    assert_eq!((import.operations.len(), import.skipped.len()), (600, 0));
    let limit = if cfg!(debug_assertions) { Duration::from_secs(60) } else { Duration::from_secs(2) };
    assert!(took < limit, "{took:?}");
    let put = one(&import, "put7");
    assert!(put.spec.output_schema.to_string().len() < 64 * 1024);
    let endless = json!({"self": {"self": {"self": {"self": 1}}}});
    assert!(!accepts(put, json!({"id": "1", "body": endless})));
    // Every one of them is good for a registry.
    let mut builder = Registry::<()>::builder();
    for one in import.operations.iter().step_by(10) {
        builder = builder.raw(one.spec.clone(), |(), input| async { Ok(hub_operations::Reply::Value(input)) });
    }
    assert_eq!(builder.build().unwrap().specs().len(), 60);
}

#[test]
fn a_document_without_room_loses_answers_first_and_descriptions_last() {
    let member =
        |n: usize| (format!("member_{n}"), json!({ "type": "string", "description": "Told at length. ".repeat(10) }));
    let thing = json!({ "type": "object", "properties": Map::from_iter((0..40).map(member)) });
    let answer = json!({ "200": { "description": "It.", "content": { "application/json": { "schema": thing } } } });
    let get = json!({ "description": "Words and words. ".repeat(60), "responses": answer });
    let paths = Map::from_iter((0..3).map(|n| (format!("/things{n}"), json!({ "get": get }))));
    let text =
        json!({ "openapi": "3.1.0", "servers": [{ "url": "https://a.example.com" }], "paths": paths }).to_string();
    let document = Document::parse(&text).unwrap();
    let within =
        |bytes| document.operations_to_register(&Options { max_declarations: bytes, ..Options::new("things") });
    let size = |import: &Import| -> usize {
        import.operations.iter().map(|one| serde_json::to_string(&one.spec).unwrap().len()).sum()
    };
    let spec = |import: &Import| import.operations[0].spec.clone();
    let whole = within(usize::MAX).unwrap();
    assert!(!whole.shortened && spec(&whole).output_schema.to_string().len() > 4096);
    let fewer = within(size(&whole) / 2).unwrap();
    assert!(fewer.shortened && spec(&fewer).output_schema.to_string().len() <= 4096);
    assert_eq!(spec(&fewer).description, spec(&whole).description);
    // Marks tell the declarations apart.
    assert_ne!(spec(&fewer).version, spec(&whole).version);
    let least = within(3 * 1_300).unwrap();
    assert!(spec(&least).description.chars().count() == 201 && spec(&least).description.ends_with('…'));
    assert_eq!(least.operations.len(), 3);
    let error = within(100).unwrap_err();
    assert!(matches!(error, ImportError::TooMany { operations: 3, limit: 100, .. }), "{error}");
    assert!(error.to_string().contains("`only`"), "{error}");
}

#[test]
fn a_document_with_nothing_to_offer_says_so() {
    let said = |paths: Value, only: &[&str]| {
        let text = json!({ "openapi": "3.1.0", "servers": [{ "url": "https://a.example.com" }], "paths": paths });
        let only = only.iter().map(|&pattern| pattern.to_owned()).collect();
        let document = Document::parse(&text.to_string()).unwrap();
        document.operations_to_register(&Options { only, ..Options::new("a") }).unwrap_err().to_string()
    };
    assert_eq!(said(json!({}), &[]), "the document has no operations");
    let remote = json!({ "/a": { "get": { "parameters": [{ "$ref": "other.yaml#/p" }], "responses": {} } } });
    let none =
        "none of the document's 1 operations can be offered, left out: GET /a: \"other.yaml#/p\" refers to another";
    assert!(said(remote, &[]).starts_with(none), "{none}");
    assert!(said(json!({ "/a": { "get": 5 } }), &[]).ends_with("GET /a: get: the operation is no object"));
    assert!(said(json!({ "/a": { "get": { "responses": {} } } }), &["b*"]).contains("`only` leaves none"));
    // One that fits no message is left out, and the others stay.
    let code = |n: usize| ((400 + n).to_string(), json!({ "description": "x".repeat(60_000) }));
    let large = json!({ "get": { "operationId": "large", "responses": Map::from_iter((0..40).map(code)) } });
    let text = json!({ "openapi": "3.1.0", "servers": [{ "url": "https://a.example.com" }],
        "paths": { "/large": large, "/small": { "get": { "responses": {} } } } });
    let import = import(&text.to_string(), "a");
    if let [skipped] = import.skipped.as_slice() {
        assert!(matches!(skipped.reason, ImportError::LargeOperation { .. }), "{skipped}");
    }
    assert!(import.operations.iter().any(|one| one.spec.name == "get_small"));
}

#[test]
fn yaml_of_the_same_size_is_not_slow_either() {
    // YAML holds JSON.
    let text = format!("# A comment, so that it does not begin with a brace.\n{}", large());
    let started = Instant::now();
    Document::parse(&text).unwrap();
    let limit = if cfg!(debug_assertions) { Duration::from_secs(60) } else { Duration::from_secs(2) };
    assert!(started.elapsed() < limit, "{:?}", started.elapsed());
}

#[test]
fn documents_nest_as_deep_as_their_parser_lets_them() {
    let deep = |open: &str, close: &str| {
        let schema = format!("{}true{}", open.repeat(50), close.repeat(50));
        format!(
            r#"{{"openapi":"3.1.0","servers":[{{"url":"http://h.example"}}],"paths":{{"/a":{{"post":{{"requestBody":{{"content":{{"application/json":{{"schema":{schema}}}}}}},"responses":{{}}}}}}}}}}"#
        )
    };
    for (open, close) in [("{\"not\":", "}"), ("{\"allOf\":[", "]}"), ("{\"properties\":{\"x\":", "}}")] {
        let import = import(&deep(open, close), "deep");
        assert_eq!(import.operations.len(), 1);
        Definition::new(import.operations[0].spec.clone()).unwrap();
    }
}
