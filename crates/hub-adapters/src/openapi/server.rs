//! Where the requests go.

use std::collections::BTreeMap;

use serde_json::Value;
use url::Url;

use super::document::{ImportError, object, text};

/// The first server's URL, its variables filled in, relative to where the document came from.
pub(super) fn url(
    holder: &Value,
    variables: &BTreeMap<String, String>,
    document: Option<&Url>,
) -> Result<Option<Url>, ImportError> {
    let Some(server) = holder.get("servers").and_then(|all| all.as_array()?.first()) else {
        return Ok(None);
    };
    let template = text(server, "url").unwrap_or("/");
    let filled = fill(template, server, variables)?;
    let parsed = match document {
        Some(document) => document.join(&filled),
        None => Url::parse(&filled),
    };
    let url = parsed.map_err(|_| {
        ImportError::Server(format!(
            "the document's server {template:?} is no full URL: name the whole of it (baseUrl, --base-url)"
        ))
    })?;
    Ok(Some(url))
}

fn fill(template: &str, server: &Value, variables: &BTreeMap<String, String>) -> Result<String, ImportError> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, tail)) = after.split_once('}') else {
            break;
        };
        let declared = object(server, "variables").and_then(|all| all.get(name));
        let value = variables.get(name).map(String::as_str).or_else(|| text(declared?, "default"));
        let value = value.ok_or_else(|| {
            ImportError::Server(format!("the document's server {template:?} needs a value for {name:?}, or name the whole of it (baseUrl, --base-url)"))
        })?;
        let allowed = declared.and_then(|d| d.get("enum")?.as_array());
        if allowed.is_some_and(|allowed| !allowed.iter().any(|one| one.as_str() == Some(value))) {
            let allowed: Vec<&str> = allowed.into_iter().flatten().filter_map(Value::as_str).collect();
            let reason = format!("server variable {name:?} must be one of {}", allowed.join(", "));
            return Err(ImportError::Server(reason));
        }
        out.push_str(before);
        out.push_str(value);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

/// Checks and trims a base: paths of operations are appended to it.
pub(super) fn base(mut url: Url) -> Result<Url, ImportError> {
    let shown = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    if url.cannot_be_a_base() || !matches!(url.scheme(), "http" | "https") {
        return Err(ImportError::Server(format!("{shown} is no http or https URL")));
    }
    if url.query().is_some() || url.fragment().is_some() {
        let reason = format!("the base URL {shown} must have no query: give keys as credentials");
        return Err(ImportError::Server(reason));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let reason = format!("the base URL {shown} must hold no user or password: give them as credentials");
        return Err(ImportError::Server(reason));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Whether two URLs are of one scheme, host and port.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    one.origin() == other.origin()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_are_filled_in() {
        let holder = json!({"servers": [{
            "url": "https://{region}.example.com/{version}/",
            "variables": {"region": {"default": "eu", "enum": ["eu", "us"]}, "version": {"default": "v1"}},
        }]});
        let with = |name: &str, value: &str| url(&holder, &BTreeMap::from([(name.into(), value.into())]), None);
        let default = url(&holder, &BTreeMap::new(), None).unwrap().unwrap();
        assert_eq!(base(default).unwrap().as_str(), "https://eu.example.com/v1");
        assert_eq!(with("region", "us").unwrap().unwrap().host_str(), Some("us.example.com"));
        assert!(with("region", "evil.example/").unwrap_err().to_string().contains("eu, us"));
        let lacking = json!({"servers": [{"url": "https://{x}/"}]});
        assert!(url(&lacking, &BTreeMap::new(), None).is_err());
    }

    #[test]
    fn relative_servers_need_a_document_from_somewhere() {
        let holder = json!({"servers": [{"url": "/v3"}]});
        assert!(url(&holder, &BTreeMap::new(), None).unwrap_err().to_string().contains("--base-url"));
        let document = Url::parse("https://pets.example.com/spec/openapi.json").unwrap();
        let joined = url(&holder, &BTreeMap::new(), Some(&document)).unwrap().unwrap();
        assert_eq!(joined.as_str(), "https://pets.example.com/v3");
        assert_eq!(url(&json!({}), &BTreeMap::new(), None), Ok(None));
    }

    #[test]
    fn secrets_in_a_base_are_refused() {
        for text in ["https://u:hunter2@h/", "https://h/?key=hunter2", "ftp://h/", "https://h/#hunter2"] {
            let error = base(Url::parse(text).unwrap()).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
