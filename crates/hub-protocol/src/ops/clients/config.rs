//! Configurations of clients, by type. `custom` has none: any object will do.
//!
//! Where a secret is needed its name is given, and `secrets.set` gives the value.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ops::wire;

/// Which dialect a model provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LlmApi {
    /// Chat completions and their kin.
    #[serde(rename = "openai")]
    OpenAi,
    /// Messages.
    Anthropic,
    /// Generate content.
    Gemini,
    /// A local server's own.
    Ollama,
}

/// How a credential is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AuthKind {
    /// `Authorization: Bearer`.
    Bearer,
    /// `Authorization: Basic` with `user`.
    Basic,
    /// An API key, in the place that `in` and `name` say.
    ApiKey,
}

/// Where an API key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum KeyPlace {
    /// A header.
    Header,
    /// A query parameter.
    Query,
    /// A cookie.
    Cookie,
}

wire! {
    /// Of `mcp-server`: either `url` or `command`.
    #[serde(deny_unknown_fields)]
    pub struct McpServerConfig {
        /// Endpoint, over streamable HTTP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
        /// Program on the hub's machine, over standard input and output; only where the hub allows programs at all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<String>,
        /// Its arguments.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// Variables of the program's environment, each with the name of the secret that is its value.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, String>,
        /// Secret sent as bearer token; default `token`, if there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
        /// Tools to offer as streams of their progress.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        stream: Vec<String>,
        /// Whether this machine and private networks may be reached.
        #[serde(default)]
        allow_private: bool,
    }
    /// How requests of an `openapi` client are authenticated.
    #[serde(deny_unknown_fields)]
    pub struct OpenApiAuth {
        /// How the credential is sent.
        kind: AuthKind,
        /// Secret with the token, password or key; default `token`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
        /// User name, for `basic`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// Where an API key goes; it needs to be said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        r#in: Option<KeyPlace>,
        /// Name of that header, parameter or cookie; default `X-API-Key`, or `api_key` elsewhere than in a header.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    }
    /// Of `openapi`: either `url` or `document`.
    #[serde(deny_unknown_fields)]
    pub struct OpenApiConfig {
        /// Where the document is; read without credentials.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        url: Option<String>,
        /// The document itself, JSON or YAML.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        document: Option<String>,
        /// Where requests go; default what the document says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base_url: Option<String>,
        /// Credential of all requests.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        auth: Option<OpenApiAuth>,
        /// Only operations of which the name or a tag is one of these; `*` is any text.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        only: Vec<String>,
        /// How often the document at `url` is looked at again, in milliseconds, at least 1,000; default 300,000. 0: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refresh_ms: Option<u64>,
        /// Whether answers that break the document's schemas or media types are passed on; they fail otherwise.
        #[serde(default)]
        lenient: bool,
        /// Whether this machine and private networks may be reached.
        #[serde(default)]
        allow_private: bool,
    }
    /// Of `llm-provider`.
    #[serde(deny_unknown_fields)]
    pub struct LlmProviderConfig {
        /// Where its API begins.
        base_url: String,
        /// Which dialect it speaks.
        api: LlmApi,
        /// Models to use; default all that it lists.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        models: Vec<String>,
        /// Secret with its key; default `token`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
        /// Whether this machine and private networks may be reached.
        #[serde(default)]
        allow_private: bool,
    }
    /// Of `vcs`.
    #[serde(deny_unknown_fields)]
    pub struct VcsConfig {
        /// Where its API begins.
        base_url: String,
        /// What it is, for example `forgejo`.
        flavour: String,
        /// Secret with its token; default `token`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
        /// Whether this machine and private networks may be reached.
        #[serde(default)]
        allow_private: bool,
    }
    /// Of `compute`.
    #[serde(deny_unknown_fields)]
    pub struct ComputeConfig {
        /// Where its API begins.
        base_url: String,
        /// What it is.
        flavour: String,
        /// Region or zone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        region: Option<String>,
        /// Secret with its token; default `token`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<String>,
        /// Whether this machine and private networks may be reached.
        #[serde(default)]
        allow_private: bool,
    }
}
