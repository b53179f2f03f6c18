//! Who may call what (protocol §5, `AccessControl`). Nothing is allowed that no rule allows.

use std::collections::HashSet;
use std::fmt;

use hub_protocol::{AccessControl, CallError, ErrorCode, Identity, Json, Violation};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// Whether the caller may know that the operation exists: its scopes suffice and, where a resource is needed, it
/// holds the action on at least one resource of that type.
#[must_use]
pub fn is_visible(rule: &AccessControl, caller: &Identity) -> bool {
    let scopes = rule.required_scopes.iter().all(|scope| caller.has_scope(scope));
    let any =
        rule.required_scopes_any.is_empty() || rule.required_scopes_any.iter().any(|scope| caller.has_scope(scope));
    scopes && any && has_some_resource(rule, caller)
}

/// Checks the resource that the input names. Call after [`is_visible`].
///
/// # Errors
/// `ACCESS_DENIED` when the caller lacks the action on that resource and on `"type:*"`; `VALIDATION_ERROR` when the
/// input has a member twice, so that hub and callee might read different ones.
pub fn check_resource(
    rule: &AccessControl,
    caller: &Identity,
    resource_param: Option<&str>,
    input: &Json,
) -> Result<(), CallError> {
    let (Some(kind), Some(action)) = (&rule.resource_type, &rule.resource_action) else {
        return Ok(());
    };
    if holds(caller, &format!("{kind}:*"), action) {
        return Ok(());
    }
    let default_param = format!("{kind}Id");
    let param = resource_param.unwrap_or(&default_param);
    let members = input.parse::<Members>().unwrap_or_default().0;
    let mut named = HashSet::new();
    if let Some((twice, _)) = members.iter().find(|(name, _)| !named.insert(name)) {
        // The callee may read the other one.
        let message = "a member that stands twice could name either resource".to_owned();
        let path = format!("/{}", twice.replace('~', "~0").replace('/', "~1"));
        return Err(
            CallError::new(ErrorCode::ValidationError, message.clone()).with_details(&[Violation { path, message }])
        );
    }
    let id = members.iter().find(|(name, _)| name == param).and_then(|(_, id)| id.as_str());
    match id {
        // "*" as an id in the input must not be read as the wildcard.
        Some(id) if id != "*" && holds(caller, &format!("{kind}:{id}"), action) => Ok(()),
        _ => Err(CallError::new(ErrorCode::AccessDenied, format!("not allowed to {action} this {kind}"))
            .with_details(&serde_json::json!({ "resourceType": kind, "resourceAction": action }))),
    }
}

/// The members of an object as they stand there, doubles included.
#[derive(Default)]
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

fn has_some_resource(rule: &AccessControl, caller: &Identity) -> bool {
    let (Some(kind), Some(action)) = (&rule.resource_type, &rule.resource_action) else {
        // An action without a type has no defined meaning, so it allows nobody.
        return rule.resource_action.is_none();
    };
    let held = caller.resources.iter().flatten();
    caller.has_scope("*")
        || held.into_iter().any(|(key, actions)| {
            key.strip_prefix(kind.as_str()).is_some_and(|rest| rest.starts_with(':')) && actions.contains(action)
        })
}

fn holds(caller: &Identity, resource: &str, action: &String) -> bool {
    // The scope `*` is everything, resources included.
    caller.scopes.iter().any(|s| s == "*")
        || caller.resources.as_ref().and_then(|r| r.get(resource)).is_some_and(|actions| actions.contains(action))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn caller(scopes: &[&str], resources: &[(&str, &str)]) -> Identity {
        let resources: BTreeMap<_, _> =
            resources.iter().map(|(k, a)| ((*k).to_owned(), vec![(*a).to_owned()])).collect();
        let resources = (!resources.is_empty()).then_some(resources);
        Identity { id: "t".into(), scopes: scopes.iter().map(|s| (*s).to_owned()).collect(), resources, chain: vec![] }
    }

    fn on_project() -> AccessControl {
        AccessControl {
            resource_type: Some("project".into()),
            resource_action: Some("write".into()),
            ..AccessControl::default()
        }
    }

    #[test]
    fn all_and_any_scopes() {
        let rule =
            AccessControl { required_scopes_any: vec!["x".into(), "y".into()], ..AccessControl::scopes(&["a", "b"]) };
        assert!(!is_visible(&rule, &caller(&["a", "b"], &[])));
        assert!(!is_visible(&rule, &caller(&["a", "x"], &[])));
        assert!(is_visible(&rule, &caller(&["a", "b", "y"], &[])));
        assert!(is_visible(&rule, &caller(&["*"], &[])));
    }

    #[test]
    fn a_resource_of_the_type_does_not_open_another() {
        let caller = caller(&[], &[("project:p1", "write"), ("project:p2", "read")]);
        let rule = on_project();
        assert!(is_visible(&rule, &caller));
        let check = |input: Value| check_resource(&rule, &caller, None, &input.into());
        assert!(check(json!({"projectId": "p1"})).is_ok());
        for input in
            [json!({"projectId": "p2"}), json!({"projectId": "*"}), json!({"projectId": 1}), json!({}), json!(null)]
        {
            assert!(check(input.clone()).unwrap_err().is(ErrorCode::AccessDenied), "{input}");
        }
    }

    #[test]
    fn the_member_that_names_the_resource_can_be_chosen() {
        let caller = caller(&[], &[("project:p1", "write")]);
        assert!(check_resource(&on_project(), &caller, Some("target"), &json!({"target": "p1"}).into()).is_ok());
        assert!(check_resource(&on_project(), &caller, Some("target"), &json!({"projectId": "p1"}).into()).is_err());
    }

    #[test]
    fn a_member_that_stands_twice_names_no_resource() {
        let caller = caller(&[], &[("project:p1", "write")]);
        for twice in [
            r#"{"projectId": "p2", "projectId": "p1"}"#,
            r#"{"project\u0049d": "p2", "projectId": "p1"}"#,
            r#"{"projectId": "p1", "a": 1, "a": 1}"#,
        ] {
            let refused = check_resource(&on_project(), &caller, None, &Json::from_text(twice).unwrap());
            assert!(refused.unwrap_err().is(ErrorCode::ValidationError), "{twice}");
        }
        let below = r#"{"projectId": "p1", "a": {"projectId": "p1"}}"#;
        assert!(check_resource(&on_project(), &caller, None, &Json::from_text(below).unwrap()).is_ok());
    }

    #[test]
    fn an_action_without_a_type_allows_nobody() {
        let rule = AccessControl { resource_action: Some("write".into()), ..AccessControl::default() };
        assert!(!is_visible(&rule, &caller(&["*"], &[("project:*", "write")])));
    }

    #[test]
    fn a_type_that_is_a_prefix_of_another_does_not_match() {
        assert!(!is_visible(&on_project(), &caller(&[], &[("projects:p1", "write")])));
    }
}
