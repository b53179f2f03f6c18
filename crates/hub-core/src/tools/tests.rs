use serde_json::{Value, json};

use super::*;

fn candidate(id: &str, mcp: Value) -> Candidate {
    let spec = json!({
        "namespace": "", "name": "", "version": "1.0.0", "type": "query", "description": "d", "inputSchema": true,
        "outputSchema": true, "accessControl": { "requiredScopes": [] }, "_meta": { "mcp": mcp },
    });
    let spec = serde_json::from_value::<OperationSpec>(spec).unwrap().with_id(id);
    let definition = Arc::new(Definition::new(spec).unwrap());
    Candidate { definition, chosen: false, own: false, active: true, providers: Vec::new() }
}

fn named(tools: &[(&str, &str)]) -> Vec<String> {
    let tools: Vec<_> = tools.iter().map(|(id, name)| candidate(id, json!({ "name": name }))).collect();
    names(&tools)
}

#[test]
fn different_ids_make_different_plain_names() {
    let long = format!("a.{}.{}", "b".repeat(60), "c".repeat(30));
    let ids = [
        "m.a.b",
        "m.a_b",
        "m_a.b",
        "m.a-b",
        "m.a__b",
        "m.a_.b",
        "m.a._b",
        "m.a_._b",
        "m._a.b",
        "m_.a.b",
        &long,
        &format!("x{long}"),
    ];
    let names: HashSet<String> = ids.iter().map(|id| name_of(id)).collect();
    assert_eq!(names.len(), ids.len(), "{names:?}");
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    assert!(names.iter().all(|name| name.len() <= MAX_NAME && name.chars().all(plain)), "{names:?}");
    assert_eq!((name_of("m.a.b"), name_of("m.a_b")), ("m_a_b".to_owned(), "m_a__b".to_owned()));
    assert!(name_of(&long).ends_with("bbb_cccccccccccccccccccccccccccccc"));
}

#[test]
fn an_asked_name_is_had_by_one_or_by_none() {
    assert_eq!(named(&[("m.a", "read"), ("m.b", "write")]), ["read", "write"]);
    // Nobody takes the name that another's id makes, that of one of the four, or one that two ask for.
    assert_eq!(named(&[("client.m.m.plain", ""), ("aaa.x", "client_m_m_plain")]), ["client_m_m_plain", "aaa_x"]);
    assert_eq!(named(&[("m.a", "call")]), ["m_a"]);
    assert_eq!(named(&[("m.a", "read"), ("aaa.x", "read")]), ["m_a", "aaa_x"]);
    // What hosts do not take is not asked for.
    let long = "x".repeat(MAX_NAME + 1);
    assert_eq!(named(&[("m.a", "a.b"), ("m.b", "ä"), ("m.c", ""), ("m.d", &long)]), ["m_a", "m_b", "m_c", "m_d"]);
}

#[test]
fn a_tool_has_its_best_turn() {
    let groups = |of: &[&str]| of.iter().map(|group| Arc::from(*group)).collect::<HashSet<_>>();
    let tools = [groups(&["a"]), groups(&["a"]), groups(&["a", "b"]), groups(&["b"]), groups(&[])];
    assert_eq!(turns(tools.into_iter()), [1, 2, 1, 2, 0]);
}
