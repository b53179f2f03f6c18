//! Names of operations.

use std::collections::HashSet;

/// Longest segment of an operation id.
const MAX_SEGMENT: usize = 64;

/// Gives each operation a name of its own.
#[derive(Default)]
pub(super) struct Names(HashSet<String>);

impl Names {
    /// The document's own id in the characters of a name, else one made from method and path; numbered when taken.
    pub(super) fn name(&mut self, operation_id: Option<&str>, method: &str, path: &str) -> String {
        let own = operation_id.map(sanitised).filter(|name| !name.is_empty());
        let base = own.unwrap_or_else(|| from_path(method, path));
        let base = &base[..base.len().min(MAX_SEGMENT)];
        if self.0.insert(base.to_owned()) {
            return base.to_owned();
        }
        let mut number = 2_u32;
        loop {
            let suffix = format!("_{number}");
            let name = format!("{}{suffix}", &base[..base.len().min(MAX_SEGMENT - suffix.len())]);
            if self.0.insert(name.clone()) {
                return name;
            }
            number += 1;
        }
    }
}

/// Runs of other characters become one underscore; those at the ends go.
pub(super) fn sanitised(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
            name.push(c);
        } else if !name.ends_with('_') && !name.is_empty() {
            name.push('_');
        }
    }
    // Only what was put in place of other characters.
    if text.ends_with('_') { name } else { name.trim_end_matches('_').to_owned() }
}

/// `get /users/{id}/posts` is `get_users_posts`, `get /users/{id}` is `get_users_by_id`.
fn from_path(method: &str, path: &str) -> String {
    let mut name = method.to_owned();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for (at, part) in parts.iter().enumerate() {
        let param = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let word = match param {
            Some(_) if at + 1 < parts.len() => continue,
            Some(param) => format!("by_{}", sanitised(param)),
            None => sanitised(part),
        };
        name.push('_');
        name.push_str(&word);
    }
    if parts.is_empty() {
        name.push_str("_root");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kept_as_far_as_they_can_be() {
        let mut names = Names::default();
        for (id, name) in [
            ("listPets", "listPets"),
            ("list_pets-v2", "list_pets-v2"),
            ("repos/list-for-org", "repos_list-for-org"),
            ("pets.list all", "pets_list_all"),
            ("/a//b/", "a_b"),
            ("\u{e9}t\u{e9}", "t"),
            ("private_", "private_"),
        ] {
            assert_eq!(names.name(Some(id), "get", "/"), name, "{id}");
        }
    }

    #[test]
    fn without_an_id() {
        let mut names = Names::default();
        for (path, name) in [
            ("/users", "get_users"),
            ("/users/{id}", "get_users_by_id"),
            ("/users/{id}/posts", "get_users_posts"),
            ("/", "get_root"),
            ("/a.b/c:d", "get_a_b_c_d"),
        ] {
            assert_eq!(names.name(None, "get", path), name, "{path}");
        }
        assert_eq!(names.name(Some("\u{2603}"), "put", "/x"), "put_x");
    }

    #[test]
    fn each_is_unique_and_fits() {
        let mut names = Names::default();
        let long = "x".repeat(200);
        let all: HashSet<String> = (0..50).map(|_| names.name(Some(&long), "get", "/")).collect();
        assert_eq!(all.len(), 50);
        assert!(all.iter().all(|name| hub_protocol::check_operation_id(&format!("ns.{name}")).is_ok()));
        assert_eq!(names.name(Some("a"), "get", "/"), "a");
        assert_eq!(names.name(Some("a"), "get", "/"), "a_2");
        assert_eq!(names.name(Some("a_2"), "get", "/"), "a_2_2");
    }
}
