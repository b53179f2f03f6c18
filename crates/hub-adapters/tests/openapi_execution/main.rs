//! Imported operations against servers that are right, wrong and hostile.

mod follow;
mod liars;
mod promises;
mod shapes;
mod streams;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hub_adapters::net::NetPolicy;
use hub_adapters::openapi::{
    Apply, CallLimits, ClientError, Credential, Document, OpenApiClient, OpenApiClientBuilder, Options, register,
};
use hub_operations::{Registry, Reply};
use hub_protocol::{CallError, Json};
use serde_json::{Value, json};
use upstream::{Upstream, json as ok_json, response};

const PETSTORE: &str = include_str!("../documents/petstore.yaml");
const FORGE: &str = include_str!("../documents/forge.json");
const PAYMENTS: &str = include_str!("../documents/payments.yaml");
const WEATHER: &str = include_str!("../documents/weather.yaml");
const SECRET: &str = "hunter2-hunter2";
const PET: &str = r#"{"id": 1, "name": "Rex", "photoUrls": []}"#;
const NOTHING: &str = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";

fn builder(document: &str, url: &str) -> OpenApiClientBuilder {
    let mut options = Options::new("api");
    options.base_url = Some(url.parse().unwrap());
    let import = Document::parse(document).unwrap().operations(&options).unwrap();
    OpenApiClient::builder(import).policy(NetPolicy::private())
}

fn client(document: &str, url: &str) -> OpenApiClient {
    builder(document, url).build().unwrap()
}

async fn call(client: &OpenApiClient, name: &str, input: Value) -> Result<Value, CallError> {
    match client.call(&format!("api.{name}"), &input.into(), &CallLimits::default()).await? {
        Reply::Envelope(envelope) => Ok(envelope.parse().unwrap()),
        Reply::Value(_) | Reply::Stream(_) => panic!("no envelope"),
    }
}

fn details(error: &CallError) -> Value {
    error.details.as_ref().unwrap().parse().unwrap()
}

#[test]
fn a_credential_is_in_no_declaration_and_what_is_left_out_is_told() {
    let get = |id: &str, said: &str| json!({ "operationId": id, "description": said, "responses": {} });
    let document = json!({ "openapi": "3.1.0", "info": { "title": "t", "version": "1" }, "paths": {
        "/plain": { "get": get("plain", "says nothing"), "trace": get("trace", "") },
        "/told": { "get": get("told", &format!("for example {SECRET}")) },
        "/named": { "get": get(&format!("by_{SECRET}"), "") },
    } });
    let versions = |secret: &str| {
        let mut options = Options::new("hunter2-hunter2");
        options.base_url = Some("http://127.0.0.1:1".parse().unwrap());
        let import = Document::parse(&document.to_string()).unwrap().operations_to_register(&options).unwrap();
        let client = OpenApiClient::builder(import).policy(NetPolicy::private());
        let client = client.credential(Credential::Bearer(secret.into())).apply(Apply::Always);
        let client = client.build().unwrap();
        let specs: Vec<_> = client.operations().map(|one| one.spec.clone()).collect();
        (specs, client.left_out().unwrap())
    };
    let ((all, _), (clean, left_out)) = (versions("another-secret"), versions(SECRET));
    assert_eq!((all.len(), clean.len()), (3, 2));
    assert!(left_out.contains("TRACE /plain") && left_out.contains("GET /named"), "{left_out}");
    for spec in &clean {
        // Whose it is and who may call it are not the document's, even when a credential is spelt so.
        let before = all.iter().find(|before| before.id() == spec.id()).unwrap();
        assert_eq!(spec.access_control, before.access_control);
        let told = spec.name == "told";
        assert_eq!(spec.description.contains("[redacted]"), told, "{spec:?}");
        // Another declaration under the same version would be refused.
        assert_eq!(spec.version != before.version, told, "{}", spec.version);
    }
}

#[tokio::test]
async fn a_request_has_everything_in_its_place() {
    let upstream = Upstream::answering(|_| NOTHING.to_owned()).await;
    let pets = builder(PETSTORE, &upstream.url())
        .credential(Credential::Key { place: None, value: SECRET.into() })
        .header("X-Tenant", "t1".into())
        .build()
        .unwrap();
    call(&pets, "listPets", json!({"limit": 3, "tags": ["a b", "c&d"]})).await.unwrap();
    let request = upstream.last();
    assert_eq!(request.line, "GET /base/pets?limit=3&tags=a%20b,c%26d HTTP/1.1");
    assert_eq!((request.header("x-pet-key"), request.header("x-tenant")), (Some(SECRET), Some("t1")));
    assert_eq!(request.header("accept"), Some("application/json"));
    call(&pets, "createPet", json!({"body": {"name": "x", "photoUrls": [], "n": 1.0}})).await.unwrap();
    let request = upstream.last();
    assert_eq!(
        (request.line.as_str(), request.header("content-type")),
        ("POST /base/pets HTTP/1.1", Some("application/json"))
    );
    assert_eq!(request.body, r#"{"n":1.0,"name":"x","photoUrls":[]}"#);
    call(&pets, "deletePet", json!({"petId": 7, "reason": "old"})).await.unwrap();
    assert_eq!(
        (upstream.last().line.as_str(), upstream.last().header("reason")),
        ("DELETE /base/pets/7 HTTP/1.1", Some("old"))
    );
    // `security: []` says that nobody needs to be known, so nobody is told.
    call(&pets, "login", json!({"body": {"username": "u", "password": "p"}})).await.unwrap();
    assert_eq!(upstream.last().header("x-pet-key"), None);
    call(&pets, "post_pets_photo", json!({"petId": 7, "body": {"file": "aGVsbG8=", "caption": "hi"}})).await.unwrap();
    let request = upstream.last();
    assert!(request.header("content-type").unwrap().starts_with("multipart/form-data; boundary="));
    assert!(request.body.contains("Content-Type: image/png\r\n\r\nhello\r\n"), "{}", request.body);

    let pay = client(PAYMENTS, &upstream.url());
    call(&pay, "GetCustomers", json!({"created": {"gt": 5, "lt": 9}, "expand": ["a", "b"]})).await.unwrap();
    let wanted = "GET /base/v1/customers?created%5Bgt%5D=5&created%5Blt%5D=9&expand%5B0%5D=a&expand%5B1%5D=b HTTP/1.1";
    assert_eq!(upstream.last().line, wanted);
    call(&pay, "PostCustomers", json!({"body": {"email": "a@b.c", "address": {"city": "Ulm"}, "expand": ["x"]}}))
        .await
        .unwrap();
    assert_eq!(upstream.last().body, "address%5Bcity%5D=Ulm&email=a%40b.c&expand%5B0%5D=x");
}

#[tokio::test]
async fn credentials_go_where_the_document_says() {
    let upstream = Upstream::answering(|_| ok_json("{}")).await;
    let weather = builder(WEATHER, &upstream.url())
        .credential(Credential::Key { place: None, value: SECRET.into() })
        .build()
        .unwrap();
    let input = json!({"q": "Ulm", "bbox": [1, 2], "layers": ["a", "b"], "filter": {"x": 1}});
    call(&weather, "get_weather", input).await.unwrap();
    let wanted = format!("bbox=1,2&layers=a%7Cb&filter=%7B%22x%22%3A1%7D&appid={SECRET}");
    assert_eq!(upstream.last().line, format!("GET /base/weather?q=Ulm&{wanted} HTTP/1.1"));
    call(&weather, "get_public", json!({})).await.unwrap();
    assert_eq!(upstream.last().line, "GET /base/public HTTP/1.1");

    let pay = builder(PAYMENTS, &upstream.url())
        .credential(Credential::Basic { user: "sk".into(), password: SECRET.into() })
        .build()
        .unwrap();
    call(&pay, "DeleteCustomersCustomer", json!({"customer": "c/1"})).await.unwrap();
    assert_eq!(upstream.last().line, "DELETE /base/v1/customers/c%2F1 HTTP/1.1");
    assert_eq!(upstream.last().header("authorization"), Some("Basic c2s6aHVudGVyMi1odW50ZXIy"));

    // A caller can't put a key or header of its own in the place of this client's.
    let place = hub_adapters::openapi::KeyPlace::Query("q".into());
    let taken = builder(WEATHER, &upstream.url())
        .credential(Credential::Key { place: Some(place), value: SECRET.into() })
        .apply(Apply::Always)
        .build()
        .unwrap();
    call(&taken, "get_weather", json!({"q": "mine"})).await.unwrap();
    assert_eq!(upstream.last().line, format!("GET /base/weather?q={SECRET} HTTP/1.1"));
    let pets = builder(PETSTORE, &upstream.url()).header("Reason", "ours".into()).build().unwrap();
    call(&pets, "deletePet", json!({"petId": 1, "reason": "mine"})).await.unwrap();
    assert_eq!(upstream.last().header("reason"), Some("ours"));

    let wrong = builder(WEATHER, &upstream.url()).credential(Credential::Bearer(SECRET.into()));
    let error = wrong.build().unwrap_err();
    assert!(matches!(error, ClientError::UnusedCredential(_)) && !format!("{error:?}").contains(SECRET));
    let always = builder(WEATHER, &upstream.url()).credential(Credential::Bearer(SECRET.into())).apply(Apply::Always);
    call(&always.build().unwrap(), "get_public", json!({})).await.unwrap();
    assert_eq!(upstream.last().header("authorization"), Some(format!("Bearer {SECRET}").as_str()));
}

#[tokio::test]
async fn an_input_can_not_leave_its_path() {
    let upstream = Upstream::answering(|_| ok_json("{}")).await;
    let forge = client(FORGE, &upstream.url());
    for owner in ["..", ".", "%2e%2e", "../admin", "a/../../b", "a?x=1", "a#b", "\\..\\", "a\r\nX: y"] {
        let result = call(&forge, "repos_get-content", json!({"owner": owner, "repo": "r", "path": "p"})).await;
        match result {
            Err(error) => assert_eq!(error.code, "VALIDATION_ERROR", "{owner}"),
            Ok(_) => {
                let line = upstream.last().line;
                assert!(line.starts_with("GET /base/repos/") && line.ends_with("/r/contents/p HTTP/1.1"), "{line}");
            }
        }
    }
    for bad in [json!({"owner": "", "repo": "r", "path": "p"}), json!({"repo": "r"}), json!([1]), json!(null)] {
        assert_eq!(call(&forge, "repos_get-content", bad).await.unwrap_err().code, "VALIDATION_ERROR");
    }
    let pets = client(PETSTORE, &upstream.url());
    let error = call(&pets, "deletePet", json!({"petId": 1, "reason": "a\r\nX-Evil: 1"})).await.unwrap_err();
    assert_eq!(error.code, "VALIDATION_ERROR");
}

#[tokio::test]
async fn an_envelope_says_what_http_said() {
    let upstream = Upstream::answering(|request| match request.line.split(' ').nth(1).unwrap() {
        "/base/pets" => {
            let headers = "Content-Type: application/json\r\nX-Total: 5\r\nX-Total: 6\r\nSet-Cookie: sid=1\r\nWWW-Authenticate: x\r\n";
            response("200 OK", headers, "[{\"id\": 12345678901234567890, \"x\": 1.0, \"name\": \"n\", \"photoUrls\": []}]")
        }
        "/base/pets/1/photo" => response("200 OK", "Content-Type: image/png\r\n", "\u{1}\u{2}"),
        "/base/login" => response("200 OK", "Content-Type: text/plain\r\n", "token"),
        _ => NOTHING.to_owned(),
    })
    .await;
    let pets = client(PETSTORE, &upstream.url());
    let Ok(Reply::Envelope(envelope)) = pets.call("api.listPets", &Json::null(), &CallLimits::default()).await else {
        panic!("no envelope");
    };
    // The digits are those of the upstream.
    assert!(
        envelope.as_str().starts_with(r#"{"data":[{"id": 12345678901234567890, "x": 1.0, "name""#),
        "{}",
        envelope.as_str()
    );
    let meta = envelope.parse::<Value>().unwrap()["meta"].clone();
    assert_eq!(
        (&meta["source"], &meta["statusCode"], &meta["contentType"]),
        (&json!("http"), &json!(200), &json!("application/json"))
    );
    assert_eq!(meta["headers"]["x-total"], "5, 6");
    assert!(meta["headers"].get("set-cookie").is_none() && meta["headers"].get("www-authenticate").is_none());
    assert_eq!(call(&pets, "get_pets_photo", json!({"petId": 1})).await.unwrap()["data"], "AQI=");
    assert_eq!(call(&pets, "login", json!({})).await.unwrap()["data"], "token");
    let gone = call(&pets, "deletePet", json!({"petId": 1})).await.unwrap();
    assert_eq!((&gone["data"], &gone["meta"]["statusCode"]), (&Value::Null, &json!(204)));
}

#[tokio::test]
async fn failures_have_codes() {
    let upstream = Upstream::answering(|request| {
        let status = request.line.split("/pets/").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
        let echo = format!("{{\"message\": \"no\", \"you\": \"{}\"}}", request.header("x-pet-key").unwrap_or_default());
        response(&format!("{status} Nope"), "Content-Type: application/json\r\nRetry-After: 2\r\n", &echo)
    })
    .await;
    let pets = builder(PETSTORE, &upstream.url())
        .credential(Credential::Key { place: None, value: SECRET.into() })
        .build()
        .unwrap();
    for (status, code, retryable) in [
        (404, "HTTP_404", false),
        (400, "EXECUTION_ERROR", false),
        (401, "EXECUTION_ERROR", false),
        (403, "EXECUTION_ERROR", false),
        (429, "RATE_LIMITED", true),
        (500, "EXECUTION_ERROR", false),
    ] {
        let error = call(&pets, "getPet", json!({"petId": status})).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.retryable), (code, retryable), "{status}");
        let details = details(&error);
        assert_eq!((&details["status"], &details["body"]["message"]), (&json!(status), &json!("no")), "{status}");
        assert_eq!(details["retryAfterMs"], 2_000);
        assert!(!format!("{error} {details}").contains(SECRET) && details["body"]["you"] == "[redacted]");
    }
    let error = call(&pets, "getPet", json!({"petId": 401})).await.unwrap_err();
    assert!(error.message.contains("credentials"), "{error}");
}

#[tokio::test]
async fn an_upstream_that_repeats_its_credentials_does_not_give_them_to_callers() {
    let upstream = Upstream::answering(|request| {
        let sent = request.header("authorization").unwrap_or_default();
        response(
            "200 OK",
            &format!("Content-Type: application/json\r\nX-You: {sent}\r\n"),
            &json!([{"id": 1, "name": sent, "photoUrls": []}]).to_string(),
        )
    })
    .await;
    let basic = Credential::Basic { user: "bob".into(), password: SECRET.into() };
    for credential in [Credential::Bearer(SECRET.into()), basic] {
        let pets = builder(PETSTORE, &upstream.url()).credential(credential).apply(Apply::Always).build().unwrap();
        let answer = call(&pets, "listPets", json!({})).await.unwrap();
        let sent = upstream.last().header("authorization").unwrap().to_owned();
        let value = sent.split(' ').next_back().unwrap();
        assert!(answer.to_string().contains("[redacted]"), "{answer}");
        for secret in [SECRET, value] {
            assert!(!answer.to_string().contains(secret), "{answer}");
        }
    }
}

#[tokio::test]
async fn large_errors_are_cut() {
    let upstream =
        Upstream::answering(|_| response("500 Oops", "Content-Type: text/html\r\n", &"x".repeat(1 << 20))).await;
    let pets = client(PETSTORE, &upstream.url());
    let error = call(&pets, "listPets", json!({})).await.unwrap_err();
    assert!(error.details.unwrap().size() < 20_000);
}

#[tokio::test]
async fn reads_are_repeated_and_writes_are_not() {
    let counter = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&counter);
    let upstream = Upstream::answering(move |_| match count.fetch_add(1, Ordering::Relaxed) % 3 {
        2 => ok_json("{\"id\": \"c1\"}"),
        _ => response("503 Busy", "Retry-After: 0\r\n", ""),
    })
    .await;
    let pay = client(PAYMENTS, &upstream.url());
    call(&pay, "GetCustomers", json!({})).await.unwrap();
    assert_eq!(upstream.count(), 3);
    let error = call(&pay, "PostCustomers", json!({"body": {}})).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.retryable, upstream.count()), ("EXECUTION_ERROR", true, 4));
    counter.store(0, Ordering::Relaxed);
    // The upstream promises to know the key again.
    let limits = CallLimits { idempotency_key: Some("k1".into()), ..CallLimits::default() };
    pay.call("api.PostCustomers", &json!({"body": {}}).into(), &limits).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (upstream.count(), upstream.last().header("idempotency-key").map(str::to_owned)),
        (7, Some("k1".to_owned()))
    );
}

#[tokio::test]
async fn a_wait_beyond_the_deadline_is_not_begun() {
    let upstream = Upstream::answering(|_| response("503 Busy", "Retry-After: 60\r\n", "")).await;
    let pay = client(PAYMENTS, &upstream.url());
    let started = Instant::now();
    let error = call(&pay, "GetCustomers", json!({})).await.unwrap_err();
    assert_eq!((details(&error)["retryAfterMs"].clone(), upstream.count()), (json!(60_000), 1));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn redirects_stay_at_home() {
    let upstream = Upstream::answering(|request| match request.line.split(' ').nth(1).unwrap() {
        "/base/pets" if request.line.starts_with("GET") => response("302 Found", "Location: /base/moved\r\n", ""),
        "/base/moved" => ok_json(&format!("[{PET}]")),
        "/base/pets/1" => response("302 Found", "Location: http://169.254.169.254/latest\r\n", ""),
        "/base/pets/2" => response("302 Found", "Location: /base/pets/2\r\n", ""),
        "/base/pets/3" => response("302 Found", "Location: http://127.0.0.1:1/x\r\n", ""),
        _ => response("307 Elsewhere", "Location: /base/moved\r\n", ""),
    })
    .await;
    let pets = client(PETSTORE, &upstream.url());
    assert_eq!(call(&pets, "listPets", json!({})).await.unwrap()["data"][0]["id"], 1);
    for (id, word) in [(1, "169.254.169.254"), (2, "more than 3"), (3, "not followed")] {
        let error = call(&pets, "getPet", json!({"petId": id})).await.unwrap_err();
        assert!(error.code == "EXECUTION_ERROR" && error.message.contains(word), "{error}");
    }
    let error = call(&pets, "createPet", json!({"body": {}})).await.unwrap_err();
    assert!(error.message.contains("not followed"), "{error}");
}

/// Each kind of redirect, each way to lead away: nothing is sent there, no credential above all.
#[tokio::test]
async fn no_redirect_leads_away() {
    let elsewhere = Upstream::answering(|_| NOTHING.to_owned()).await;
    let away = elsewhere.port;
    let upstream = Upstream::answering(move |request| {
        let path = request.line.split(' ').nth(1).unwrap();
        let (status, way) = path.rsplit('/').next().and_then(|id| id.split_at_checked(3)).unwrap();
        let to = match way {
            "0" => format!("http://127.0.0.1:{away}/"),
            "1" => format!("//127.0.0.1:{away}/"),
            "2" => format!("http:\\\\127.0.0.1:{away}\\"),
            "3" => format!("http://localhost:{away}/"),
            "4" => format!("https://{}/", request.header("host").unwrap()),
            "5" => format!("http://u:p@{}/", request.header("host").unwrap()),
            "6" => "file:///etc/passwd".to_owned(),
            _ => "http://[::1".to_owned(),
        };
        response(&format!("{status} Away"), &format!("Location: {to}\r\n"), "")
    })
    .await;
    let key = Credential::Key { place: None, value: SECRET.into() };
    let pets = builder(PETSTORE, &upstream.url()).credential(key).build().unwrap();
    for status in [301, 302, 303, 307, 308] {
        for way in 0..8 {
            let error = call(&pets, "getPet", json!({"petId": status * 10 + way})).await.unwrap_err();
            assert!(error.code == "EXECUTION_ERROR" && !error.to_string().contains(SECRET), "{status} {way}: {error}");
        }
    }
    assert_eq!((upstream.count(), elsewhere.count()), (40, 0));
}

#[tokio::test]
async fn the_policy_decides_where_requests_go() {
    let upstream = Upstream::answering(|_| ok_json("{}")).await;
    let strict = builder(PETSTORE, &upstream.url()).policy(NetPolicy::default()).build();
    assert!(matches!(strict, Err(ClientError::Net(_))));
    let lacking = Document::parse("openapi: 3.0.0\npaths: {}").unwrap().operations(&Options::new("api")).unwrap();
    assert_eq!(OpenApiClient::builder(lacking).build().unwrap_err(), ClientError::NoBase);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_registry_serves_them_all() {
    let upstream = Upstream::answering(|_| ok_json(&format!("[{PET}]"))).await;
    let client = Arc::new(client(PETSTORE, &upstream.url()));
    let registry = register(Registry::<()>::builder(), &client).build().unwrap();
    assert_eq!(registry.specs().len(), client.operations().count());
    let entry = registry.get("api.listPets").unwrap();
    let Ok(Reply::Envelope(envelope)) = entry.run((), json!({}).into()).await else { panic!("no envelope") };
    assert_eq!(envelope.parse::<Value>().unwrap()["data"][0]["id"], 1);
}
