//! Which configurations are taken: those of their type that can work.

use hub_operations::Schema;
use hub_protocol::ops::clients::ClientType;
use hub_protocol::ops::clients::config::{ComputeConfig, LlmProviderConfig, McpServerConfig, OpenApiConfig, VcsConfig};
use hub_protocol::ops::schema_of;
use hub_protocol::{CallError, Json};
use serde_json::{Value, json};

use crate::{CoreError, redact};

/// Largest configuration, in bytes; a document of an API is part of it.
const MAX_CONFIG: usize = 512 * 1024;

/// A configuration that fits its type; says where it does not.
pub(super) fn checked(kind: ClientType, config: &Json) -> Result<Json, CallError> {
    let config = if *config == Json::null() { json!({}).into() } else { config.compact() };
    if config.size() > MAX_CONFIG {
        return Err(CoreError::Invalid(format!("a configuration has at most {MAX_CONFIG} bytes")).into());
    }
    let schema = match kind {
        ClientType::LlmProvider => schema_of::<LlmProviderConfig>(),
        ClientType::Vcs => schema_of::<VcsConfig>(),
        ClientType::Compute => schema_of::<ComputeConfig>(),
        ClientType::McpServer => schema_of::<McpServerConfig>(),
        ClientType::OpenApi => schema_of::<OpenApiConfig>(),
        ClientType::Custom => json!({ "type": "object" }),
    };
    let schema = Schema::compile(&schema).map_err(|e| CoreError::Invalid(e.to_string()))?;
    schema.check(&config).map_err(|found| crate::clients::violations("/config", found))?;
    let value: Value = config.parse().unwrap_or_default();
    ["url", "baseUrl"].iter().try_for_each(|key| text(&value, key).map_or(Ok(()), |url| check_url(key, url)))?;
    match kind {
        ClientType::McpServer => check_mcp(&value)?,
        ClientType::OpenApi => check_openapi(&value)?,
        // What is in it is its own affair.
        ClientType::Custom => {}
        _ => check_secret("secret", text(&value, "secret"))?,
    }
    Ok(redact::keys_in_json(&config))
}

fn check_mcp(config: &Value) -> Result<(), CoreError> {
    either(config, "url", "command")?;
    let args = config.get("args").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let env = config.get("env").and_then(Value::as_object).into_iter().flatten();
    let Some(command) = text(config, "command") else {
        return match ["args", "env"].iter().find(|key| config.get(**key).is_some_and(|value| !is_empty(value))) {
            Some(key) => invalid(key, "goes with \"command\" and not with \"url\""),
            None => check_secret("secret", text(config, "secret")),
        };
    };
    if command.is_empty() {
        return invalid("command", "is empty: name a program");
    }
    if args.chain([command]).any(|word| word.contains('\0')) {
        return invalid("command", "or config.args holds a NUL character, which no program can be given");
    }
    for (variable, secret) in env {
        let plain = variable.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain || variable.is_empty() || variable.starts_with(|c: char| c.is_ascii_digit()) {
            return invalid("env", "names what is no variable: one has letters, digits and _, and no digit first");
        }
        check_secret("env", secret.as_str())?;
    }
    check_secret("secret", text(config, "secret"))
}

fn check_openapi(config: &Value) -> Result<(), CoreError> {
    either(config, "url", "document")?;
    let Some(auth) = config.get("auth").filter(|auth| auth.is_object()) else { return Ok(()) };
    check_secret("auth.secret", text(auth, "secret"))?;
    let place = text(auth, "in");
    if text(auth, "kind") == Some("apiKey") && place.is_none() {
        return invalid(
            "auth",
            "needs \"in\" (header, query or cookie) for an API key, and \"name\" if it has one of its own",
        );
    }
    let Some(name) = text(auth, "name") else { return Ok(()) };
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let fits = if place == Some("query") { !name.contains(char::is_control) } else { name.bytes().all(token) };
    if name.is_empty() || !fits {
        return invalid("auth.name", "is no name of a header, query parameter or cookie");
    }
    Ok(())
}

/// A name that `secrets.set` takes.
fn check_secret(key: &str, name: Option<&str>) -> Result<(), CoreError> {
    let fits = |name: &str| {
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    };
    match name {
        // It is not said again: it may be the secret itself.
        Some(name) if !fits(name) => invalid(
            key,
            "is not the name of a secret (1 to 64 of A-Z a-z 0-9 _ . -): the secret itself is for secrets.set",
        ),
        _ => Ok(()),
    }
}

fn check_url(key: &str, url: &str) -> Result<(), CoreError> {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return invalid(key, "is not an http or https URL");
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // An IPv6 address is in brackets.
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    match () {
        // They would be stored in clear.
        () if authority.contains('@') => invalid(key, "holds a user or password: set a secret instead"),
        () if url.contains(|c: char| c.is_control() || c == ' ') => invalid(key, "holds blanks or control characters"),
        () if host.is_empty() => invalid(key, "has no host"),
        () if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) => {
            invalid(key, "has a port that is not 1 to 65535")
        }
        () => Ok(()),
    }
}

fn either(config: &Value, a: &str, b: &str) -> Result<(), CoreError> {
    if text(config, a).is_some() == text(config, b).is_some() {
        return Err(CoreError::Invalid(format!("config needs either {a:?} or {b:?}")));
    }
    Ok(())
}

fn text<'a>(config: &'a Value, key: &str) -> Option<&'a str> {
    config.get(key).and_then(Value::as_str)
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn invalid(key: &str, why: &str) -> Result<(), CoreError> {
    Err(CoreError::Invalid(format!("config.{key} {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each with a part of what is said of it; nothing when it is taken.
    #[test]
    fn what_can_never_work_is_refused() {
        use ClientType::{Custom, LlmProvider, McpServer, OpenApi};
        let openapi = |auth: Value| json!({"url": "https://h/o.json", "auth": auth});
        let model = |base: &str, secret: Value| json!({"baseUrl": base, "api": "openai", "secret": secret});
        let run = |env: Value| json!({"command": "run", "env": env});
        for (kind, config, said) in [
            (McpServer, json!({"url": "https://h/mcp", "secret": null, "args": [], "env": {}}), ""),
            (McpServer, run(json!({"_A1": "a.b-c_D", "LD_PRELOAD": "x"})), ""),
            (McpServer, json!({"command": "run", "args": ["", "\n"]}), ""),
            (McpServer, json!({}), "needs either"),
            (McpServer, json!({"url": "https://h", "command": "run"}), "needs either"),
            (McpServer, json!({"command": ""}), "config.command is empty"),
            (McpServer, json!({"command": "a\0b"}), "NUL"),
            (McpServer, json!({"command": "a", "args": ["\0"]}), "NUL"),
            (McpServer, json!({"url": "https://h", "args": ["x"]}), "config.args goes with \"command\""),
            (McpServer, json!({"url": "https://h", "env": {"A": "a"}}), "config.env goes with \"command\""),
            (McpServer, run(json!({"": "a"})), "config.env names what is no variable"),
            (McpServer, run(json!({"A=B": "a"})), "config.env names what"),
            (McpServer, run(json!({"BAD NAME": "a"})), "config.env names"),
            (McpServer, run(json!({"1A": "a"})), "config.env names"),
            (McpServer, run(json!({"A": ""})), "config.env is not the name"),
            (McpServer, json!({"url": "https://h", "secret": "a b"}), "config.secret is not the name"),
            (OpenApi, openapi(json!({"kind": "bearer", "secret": "t"})), ""),
            (OpenApi, openapi(json!({"kind": "apiKey", "in": "header"})), ""),
            (OpenApi, openapi(json!({"kind": "apiKey", "in": "query", "name": "a[b]"})), ""),
            (OpenApi, openapi(json!({"kind": "apiKey"})), "config.auth needs \"in\""),
            (OpenApi, openapi(json!({"kind": "apiKey", "in": null, "name": "x"})), "config.auth needs \"in\""),
            (
                OpenApi,
                openapi(json!({"kind": "apiKey", "in": "header", "name": "a\r\nb: c"})),
                "config.auth.name is no name",
            ),
            (
                OpenApi,
                openapi(json!({"kind": "apiKey", "in": "query", "name": "a\r\n"})),
                "config.auth.name is no name",
            ),
            (OpenApi, openapi(json!({"kind": "apiKey", "in": "cookie", "name": "a;b"})), "config.auth.name is no name"),
            (OpenApi, openapi(json!({"kind": "apiKey", "in": "header", "name": ""})), "config.auth.name is no name"),
            (OpenApi, openapi(json!({"kind": "basic", "secret": "ü"})), "config.auth.secret is not the name"),
            (OpenApi, json!({"document": "{}", "baseUrl": "ftp://h"}), "config.baseUrl is not an http or https URL"),
            (LlmProvider, model("http://[::1]:1/v1", json!(null)), ""),
            (LlmProvider, model("https://h:65535?x=a:b@c", json!("t")), ""),
            (LlmProvider, model("https://h", json!("x".repeat(65))), "config.secret is not the name"),
            (LlmProvider, model("http://", json!(null)), "config.baseUrl has no host"),
            (LlmProvider, model("http:///x", json!(null)), "config.baseUrl has no host"),
            (LlmProvider, model("http://:80", json!(null)), "config.baseUrl has no host"),
            (LlmProvider, model("http://h:99999", json!(null)), "port that is not 1 to 65535"),
            (LlmProvider, model("http://h:0", json!(null)), "port that is not 1 to 65535"),
            (LlmProvider, model("http://h:", json!(null)), "port that is not 1 to 65535"),
            (LlmProvider, model("http://u:p@h", json!(null)), "holds a user or password"),
            (LlmProvider, model("http://a b/", json!(null)), "holds blanks"),
            (Custom, json!({"secret": "a b", "anything": {"at": "all"}}), ""),
        ] {
            let answer = checked(kind, &config.clone().into());
            let told = answer.err().map(|error| error.message).unwrap_or_default();
            assert!(told.contains(said) && told.is_empty() == said.is_empty(), "{config}: {told:?} and not {said:?}");
        }
    }
}
