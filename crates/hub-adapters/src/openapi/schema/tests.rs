use super::*;

fn document(version: &str, schemas: Value) -> Document {
    let whole = json!({ "openapi": version, "components": { "schemas": schemas } });
    Document::parse(&whole.to_string()).unwrap()
}

fn converted(version: &str, schemas: Value, schema: Value) -> Value {
    let document = document(version, schemas);
    let mut all = Schemas::new(&document);
    let root = all.convert(&schema, Side::Input).unwrap();
    all.assemble(root, Side::Input, 1 << 20).unwrap()
}

#[test]
fn the_dialect_of_3_0() {
    for (old, new) in [
        (json!({"type": "string", "nullable": true}), json!({"type": ["string", "null"]})),
        (
            json!({"type": "string", "nullable": true, "enum": ["a"]}),
            json!({"type": ["string", "null"], "enum": ["a", null]}),
        ),
        (
            json!({"nullable": true, "description": "d", "allOf": [{"type": "object"}]}),
            json!({"description": "d", "anyOf": [{"allOf": [{"type": "object"}]}, {"type": "null"}]}),
        ),
        (json!({"minimum": 1, "exclusiveMinimum": true}), json!({"exclusiveMinimum": 1})),
        (json!({"maximum": 1, "exclusiveMaximum": false}), json!({"maximum": 1})),
        (json!({"type": "string", "example": "x"}), json!({"type": "string", "examples": ["x"]})),
        (json!({"type": "string", "format": "byte"}), json!({"type": "string", "contentEncoding": "base64"})),
        (
            json!({"type": "string", "format": "password"}),
            json!({"type": "string", "format": "password", "writeOnly": true}),
        ),
        (json!({"discriminator": {"propertyName": "t"}, "xml": {}, "externalDocs": {}, "x-y": 1}), json!({})),
    ] {
        assert_eq!(converted("3.0.3", json!({}), old.clone()), new, "{old}");
    }
}

#[test]
fn the_dialect_of_3_1_is_kept() {
    for schema in [
        json!({"type": ["string", "null"], "const": "a"}),
        json!({"exclusiveMinimum": 3, "examples": [4]}),
        json!({"prefixItems": [{"type": "string"}], "items": false}),
        json!({"if": {"required": ["a"]}, "then": {"required": ["b"]}}),
    ] {
        let mut expected = schema.clone();
        if let Some(types) = expected.get_mut("type").and_then(Value::as_array_mut) {
            types.sort_by_key(|kind| kind == "null");
        }
        assert_eq!(converted("3.1.0", json!({}), schema), expected);
    }
}

#[test]
fn what_is_no_schema_is_left_out() {
    let junk = json!({
        "type": "int", "required": true, "enum": "a", "pattern": "(?=x)", "multipleOf": 0, "minLength": -1, "minimum": "1",
        "allOf": [], "items": [{}], "properties": {"a": "string", "b": {"type": ["string", "string", "float"]}},
        "description": 7, "$schema": "http://json-schema.org/draft-04/schema#", "$id": "urn:x", "deprecated": "yes",
    });
    assert_eq!(converted("3.1.0", json!({}), junk), json!({"properties": {"a": true, "b": {"type": ["string"]}}}));
    let doubled = converted("3.0.0", json!({}), json!({"required": ["b", "a", "b"]}));
    assert_eq!(doubled, json!({"required": ["a", "b"]}));
}

#[test]
fn each_side_has_its_own_required_members() {
    let document = document("3.0.0", json!({}));
    let schema = json!({
        "required": ["id", "password", "name"],
        "properties": {"id": {"readOnly": true}, "password": {"writeOnly": true}, "name": {}},
    });
    let mut all = Schemas::new(&document);
    assert_eq!(all.convert(&schema, Side::Input).unwrap().value["required"], json!(["name", "password"]));
    assert_eq!(all.convert(&schema, Side::Output).unwrap().value["required"], json!(["id", "name"]));
}

#[test]
fn only_what_is_reached_comes_along_and_cycles_stay() {
    let schemas = json!({
        "Node": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Node"}, "leaf": {"$ref": "#/components/schemas/a%20b"}}},
        "a b": {"type": "string"},
        "Unused": {"type": "string"},
    });
    let schema = converted("3.0.0", schemas, json!({"type": "array", "items": {"$ref": "#/components/schemas/Node"}}));
    assert_eq!(schema["items"]["$ref"], "#/$defs/Node");
    let defs = schema["$defs"].as_object().unwrap();
    assert_eq!(defs.keys().collect::<Vec<_>>(), ["Node", "a_b"]);
    assert_eq!(defs["Node"]["properties"]["next"]["$ref"], "#/$defs/Node");
    let compiled = Schema::compile(&schema).unwrap();
    assert!(compiled.check(&json!([{"next": {"leaf": "x"}}]).into()).is_ok());
    assert!(compiled.check(&json!([{"next": {"leaf": 1}}]).into()).is_err());
}

#[test]
fn references_into_parts_of_schemas() {
    let schemas = json!({"A": {"properties": {"b": {"type": "integer"}}}});
    let schema = converted("3.1.0", schemas, json!({"$ref": "#/components/schemas/A/properties/b", "maximum": 3}));
    assert_eq!(schema["maximum"], 3);
    let compiled = Schema::compile(&schema).unwrap();
    assert!(compiled.check(&json!(2).into()).is_ok() && compiled.check(&json!(4).into()).is_err());
    assert!(compiled.check(&json!("x").into()).is_err());
}

#[test]
fn endless_references_are_left_open() {
    let schemas = json!({"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}});
    let root = json!({"properties": {"a": {"$ref": "#/components/schemas/A"}, "n": {"type": "integer"}}});
    let schema = converted("3.0.0", schemas, root);
    assert_eq!(schema, json!({"properties": {"a": {}, "n": {"type": "integer"}}}));
}

#[test]
fn what_is_too_much_is_left_open() {
    let chain =
        |i: usize| json!({"type": "object", "properties": {"x": {"$ref": format!("#/components/schemas/S{}", i + 1)}}});
    let mut schemas: Map<String, Value> = (0..300).map(|i| (format!("S{i}"), chain(i))).collect();
    schemas.insert("S300".into(), json!({"type": "string"}));
    let schema = converted("3.0.0", schemas.into(), json!({"$ref": "#/components/schemas/S0"}));
    Schema::compile(&schema).unwrap();
    let kept = schema["$defs"].as_object().unwrap().len();
    assert!((50..300).contains(&kept), "{kept}");
    // The nearest are there, the farthest are not.
    assert!(schema["$defs"]["S0"].is_object() && schema["$defs"].get("S299").is_none());
}

#[test]
fn other_documents_are_refused() {
    let document = document("3.0.0", json!({}));
    let mut all = Schemas::new(&document);
    for reference in ["other.yaml#/A", "https://evil.example/schema.json", "file:///etc/passwd"] {
        let error = all.convert(&json!({"items": {"$ref": reference}}), Side::Input).unwrap_err();
        assert!(matches!(error, ImportError::RemoteReference { .. }), "{reference}");
    }
    let error = all.convert(&json!({"$ref": "#/components/schemas/None"}), Side::Input).unwrap_err();
    assert!(matches!(error, ImportError::MissingReference { .. }));
}

#[test]
fn what_is_too_large_is_left_open_and_keeps_its_secrets() {
    let document = document("3.1.0", json!({}));
    let mut all = Schemas::new(&document);
    let inner = json!({"type": "object", "properties": {"pin": {"type": "string", "format": "password"}}});
    let plain = json!({"type": "string", "description": "x".repeat(200)});
    let whole = json!({"type": "object", "properties": {"login": inner, "note": plain}, "required": ["login"]});
    let root = all.convert(&whole, Side::Input).unwrap();
    let open =
        json!({"type": "object", "properties": {"login": {"writeOnly": true}, "note": true}, "required": ["login"]});
    assert_eq!(all.assemble(root, Side::Input, 200).unwrap(), open);
}
