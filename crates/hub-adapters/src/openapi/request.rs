//! One request from a plan and an input.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use hub_protocol::{CallError, Json};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::auth::Placed;
use super::body::{encode, invalid};
use super::plan::{Parameter, Place, Plan, Style};
use super::style::{in_header, in_path, pairs};

/// A request that can be sent more than once.
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
}

#[derive(Deserialize)]
struct BodyOf {
    #[serde(default)]
    body: Option<Json>,
}

/// Fills a plan in. Registries have checked the input against its schema; nothing here relies on that.
pub(super) fn build(plan: &Plan, input: &Json, base: &Url, credentials: Vec<Placed>) -> Result<Outgoing, CallError> {
    let members = members(input)?;
    let mut path = plan.path.clone();
    let (mut query, mut cookies, mut headers) = (Vec::new(), Vec::new(), HeaderMap::new());
    for parameter in &plan.parameters {
        let value = members.get(&parameter.member).unwrap_or(&Value::Null);
        match &parameter.place {
            Place::Path => path = filled(&path, parameter, value)?,
            Place::Query => query.extend(pairs(&parameter.name, value, parameter.form)),
            Place::Cookie => cookies.extend(pairs(&parameter.name, value, parameter.form)),
            Place::Header(_) if value.is_null() => {}
            Place::Header(name) => {
                let value = HeaderValue::from_str(&in_header(value, parameter.form));
                let value = value.map_err(|_| invalid(format!("{} can't be sent in a header", parameter.member)))?;
                headers.insert(name.clone(), value);
            }
        }
    }
    // In the place of what a caller gave under the same name: some servers would take the first of two.
    for placed in credentials {
        match placed {
            Placed::Header(name, value) => drop(headers.insert(name, value)),
            Placed::Query(name, value) => replace(&mut query, name, value),
            Placed::Cookie(name, value) => replace(&mut cookies, name, value),
        }
    }
    let url = url(base, &path, &query)?;
    set_cookies(&mut headers, &cookies)?;
    set(&mut headers, header::ACCEPT, &plan.answers.accept);
    let body = body(plan, input, &mut headers)?;
    Ok(Outgoing { method: plan.method.clone(), url, headers, body })
}

fn replace(pairs: &mut Vec<(String, String)>, name: String, value: String) {
    pairs.retain(|(other, _)| *other != name);
    pairs.push((name, value));
}

fn members(input: &Json) -> Result<Map<String, Value>, CallError> {
    if input.is_null() {
        return Ok(Map::new());
    }
    match input.parse() {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(invalid("the input must be an object")),
        Err(_) => Err(invalid("the input can't be read")),
    }
}

fn filled(path: &str, parameter: &Parameter, value: &Value) -> Result<String, CallError> {
    if value.is_null() {
        return Err(invalid(format!("{} is missing", parameter.member)));
    }
    let text = in_path(&parameter.name, value, parameter.form);
    // It would call another operation: `/users/` instead of `/users/{id}`.
    if text.is_empty() && matches!(parameter.form.style, Style::Simple) {
        return Err(invalid(format!("{} is empty, and it is a part of the path", parameter.member)));
    }
    Ok(path.replace(&format!("{{{}}}", parameter.name), &text))
}

fn url(base: &Url, path: &str, query: &[(String, String)]) -> Result<Url, CallError> {
    // A URL parser takes such segments for steps up, percent-encoded or not, and so would leave the base.
    let is_dots = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if path.split('/').any(is_dots) {
        return Err(invalid("a part of the path is . or .., which can't be sent"));
    }
    let mut text = format!("{}{path}", base.as_str().trim_end_matches('/'));
    for (at, (name, value)) in query.iter().enumerate() {
        // A path of the document may bring a query of its own.
        text.push(if at == 0 && !path.contains('?') { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.push_str(value);
    }
    let url = Url::parse(&text).map_err(|_| invalid("the input makes no URL"))?;
    let inside = url.origin() == base.origin() && url.path().starts_with(base.path().trim_end_matches('/'));
    if inside { Ok(url) } else { Err(invalid("the input leads away from the base URL")) }
}

fn set_cookies(headers: &mut HeaderMap, cookies: &[(String, String)]) -> Result<(), CallError> {
    if cookies.is_empty() {
        return Ok(());
    }
    let text = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
    let mut value = HeaderValue::from_str(&text).map_err(|_| invalid("the cookies can't be sent"))?;
    value.set_sensitive(true);
    headers.insert(header::COOKIE, value);
    Ok(())
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn body(plan: &Plan, input: &Json, headers: &mut HeaderMap) -> Result<Option<Bytes>, CallError> {
    let Some(body) = plan.body.as_ref().filter(|_| !input.is_null()) else {
        return Ok(None);
    };
    let BodyOf { body: value } = input.parse().map_err(|_| invalid("the input can't be read"))?;
    let Some(value) = value else {
        return Ok(None);
    };
    let (content_type, bytes) = encode(body, &value)?;
    set(headers, header::CONTENT_TYPE, &content_type);
    Ok(Some(bytes))
}
