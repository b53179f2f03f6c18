//! Operations of a document.

use std::collections::BTreeMap;

use http::Method;
use hub_operations::MAX_DECLARATION;
use hub_protocol::{AccessControl, OperationSpec, OperationType, check_operation_id};
use serde_json::{Value, json};
use url::Url;

use super::auth::KeyPlace;
use super::document::{Document, ImportError, flag, object, shortened, text};
use super::names::Names;
use super::plan::{Plan, Scheme};
use super::schema::{Schemas, Side};
use super::{parameters, responses, server};
use crate::left_out;
use crate::mark::marked;

/// Methods that may become operations.
const METHODS: [(&str, Method); 8] = [
    ("get", Method::GET),
    ("put", Method::PUT),
    ("post", Method::POST),
    ("delete", Method::DELETE),
    ("options", Method::OPTIONS),
    ("head", Method::HEAD),
    ("patch", Method::PATCH),
    ("trace", Method::TRACE),
];

/// Longest description of an operation, in characters.
const MAX_DESCRIPTION: usize = 2_000;

/// What becomes of a document's operations.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the API: `github`.
    pub name: String,
    /// Namespace of the operations. `None`: the name.
    pub namespace: Option<String>,
    /// Scopes that a caller needs, all of them. `None`: `imported:NAME`.
    pub scopes: Option<Vec<String>>,
    /// Where requests go, instead of the document's server.
    pub base_url: Option<Url>,
    /// Values for the variables of the document's server.
    pub server_variables: BTreeMap<String, String>,
    /// Where the document came from: servers are relative to it, and none of another host, scheme or port is used.
    pub document_url: Option<Url>,
    /// Import only operations of which the name or a tag is one of these; `*` is any text. Empty: all.
    pub only: Vec<String>,
    /// Largest input schema, in bytes. Parts that would not fit are left open.
    pub max_input_schema: usize,
    /// Largest output schema, in bytes. Parts that would not fit are left open.
    pub max_output_schema: usize,
    /// Most bytes of all declarations in [`Document::operations_to_register`].
    pub max_declarations: usize,
}

impl Options {
    /// The usual options.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: None,
            scopes: None,
            base_url: None,
            server_variables: BTreeMap::new(),
            document_url: None,
            only: Vec::new(),
            max_input_schema: 32 * 1024,
            max_output_schema: 16 * 1024,
            max_declarations: 8 * 1024 * 1024,
        }
    }

    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(&self.name)
    }

    fn wants(&self, name: &str, tags: &[String]) -> bool {
        let fits = |pattern: &String| matches(pattern, name) || tags.iter().any(|tag| matches(pattern, tag));
        self.only.is_empty() || self.only.iter().any(fits)
    }
}

/// One operation: what a registry declares, and how it is executed.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The declaration.
    pub spec: OperationSpec,
    /// The request.
    pub plan: Plan,
}

/// An operation that could not be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// HTTP method, in capitals.
    pub method: String,
    /// Its path.
    pub path: String,
    /// Why.
    pub reason: ImportError,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.method, self.path, self.reason)
    }
}

/// What a document gave.
#[derive(Debug, Clone)]
pub struct Import {
    /// As in the options.
    pub name: String,
    /// Where requests go; `None` when neither document nor options say.
    pub base: Option<Url>,
    /// By path, then method.
    pub operations: Vec<Imported>,
    /// Operations with faults of their own: they do not keep the others from being imported.
    pub skipped: Vec<Skipped>,
    /// Whether schemas or descriptions were shortened to make room.
    pub shortened: bool,
}

impl Import {
    /// Bytes of the declarations.
    fn size(&self) -> usize {
        self.operations.iter().map(|one| serde_json::to_string(&one.spec).map_or(0, |text| text.len() + 1)).sum()
    }
}

/// Most operations of one spoke.
const MAX_OPERATIONS: usize = 2_000;

/// Characters of a description that are kept where there is no room for more.
const SHORT: usize = 200;

impl Document {
    /// Imports the operations so that a hub takes them: what it knows of one spoke it holds in memory. What answers look
    /// like is the first to go, then what inputs look like in detail, then all but the beginnings of descriptions. Each
    /// version has a mark of its declaration behind a `+`, since documents change while their version stays.
    ///
    /// # Errors
    /// As [`Document::operations`], when there are none, and when all that is not enough.
    pub fn operations_to_register(&self, options: &Options) -> Result<Import, ImportError> {
        let mut import = self.reduced(options)?;
        if import.operations.is_empty() {
            let shown: Vec<String> = import.skipped.iter().map(ToString::to_string).collect();
            let (skipped, why) = (shown.len(), left_out::summary(&shown));
            return Err(ImportError::Empty { skipped, why, only: !options.only.is_empty() });
        }
        for one in &mut import.operations {
            one.spec = marked(one.spec.clone());
        }
        Ok(import)
    }

    fn reduced(&self, options: &Options) -> Result<Import, ImportError> {
        let limit = options.max_declarations;
        let mut options = options.clone();
        let mut import = self.operations(&options)?;
        let operations = import.operations.len();
        let too_many = |bytes| ImportError::TooMany { operations, most: MAX_OPERATIONS, bytes, limit };
        if operations > MAX_OPERATIONS {
            return Err(too_many(import.size()));
        }
        if import.size() <= limit {
            return Ok(import);
        }
        for schema in [4 * 1024, 1024, 0] {
            options.max_output_schema = schema;
            options.max_input_schema = options.max_input_schema.min(schema.max(1024) * 4);
            import = Import { shortened: true, ..self.operations(&options)? };
            if import.size() <= limit {
                return Ok(import);
            }
        }
        for one in &mut import.operations {
            one.spec.description = shortened(&one.spec.description, SHORT);
        }
        match import.size() {
            bytes if bytes > limit => Err(too_many(bytes)),
            _ => Ok(import),
        }
    }

    /// Imports the operations.
    ///
    /// # Errors
    /// When the name or the server can't be used. Faults of single operations are in [`Import::skipped`].
    pub fn operations(&self, options: &Options) -> Result<Import, ImportError> {
        check_operation_id(&format!("{}.x", options.namespace())).map_err(|e| ImportError::Name(e.to_string()))?;
        let mut importer = Importer {
            document: self,
            options,
            base: self.base(options)?,
            schemas: Schemas::new(self),
            names: Names::default(),
            version: version(text(&self.root["info"], "version").unwrap_or_default()),
        };
        let (mut operations, mut skipped) = (Vec::new(), Vec::new());
        for (path, item) in object(&self.root, "paths").into_iter().flatten() {
            let resolved = self.resolve(item);
            for (name, method) in &METHODS {
                let result = match &resolved {
                    Ok(item) => match item.get(*name) {
                        Some(operation) => importer.operation(method, path, item, operation),
                        None => continue,
                    },
                    Err(reason) if *name == "get" => Err(reason.clone()),
                    Err(_) => continue,
                };
                match result {
                    Ok(imported) => operations.extend(imported),
                    Err(reason) => skipped.push(Skipped { method: method.to_string(), path: path.clone(), reason }),
                }
            }
        }
        Ok(Import { name: options.name.clone(), base: importer.base, operations, skipped, shortened: false })
    }

    fn base(&self, options: &Options) -> Result<Option<Url>, ImportError> {
        let url = match &options.base_url {
            Some(url) => Some(url.clone()),
            None => server::url(&self.root, &options.server_variables, options.document_url.as_ref())?,
        };
        if let (Some(url), Some(document), None) = (&url, &options.document_url, &options.base_url)
            && url.origin() != document.origin()
        {
            let [document, server] = [document, url].map(|url| url.origin().ascii_serialization());
            return Err(ImportError::OtherServer { document, server });
        }
        url.map(server::base).transpose()
    }
}

struct Importer<'a> {
    document: &'a Document,
    options: &'a Options,
    base: Option<Url>,
    schemas: Schemas<'a>,
    names: Names,
    version: String,
}

impl Importer<'_> {
    /// One operation; `None` when the options do not want it.
    fn operation(
        &mut self,
        method: &Method,
        path: &str,
        item: &Value,
        operation: &Value,
    ) -> Result<Option<Imported>, ImportError> {
        let lower = method.as_str().to_ascii_lowercase();
        if *method == Method::TRACE {
            return Err(ImportError::shape(lower, "it would only show the request with its credentials"));
        }
        if !operation.is_object() {
            return Err(ImportError::shape(lower, "the operation is no object"));
        }
        let tags = tags(operation);
        let name = self.names.name(text(operation, "operationId"), &lower, path);
        if !self.options.wants(&name, &tags) {
            return Ok(None);
        }
        let path = self.path(path, item, operation)?;
        let security = self.security(operation)?;
        let input = parameters::read(&mut self.schemas, [item, operation], security.as_deref())?;
        for name in placeholders(&path) {
            let given = |p: &parameters::Input| {
                p.parameters.iter().any(|p| p.name == name && p.place == super::plan::Place::Path)
            };
            if !given(&input) {
                let reason = format!("{{{name}}} is not declared as a path parameter");
                return Err(ImportError::shape(path, reason));
            }
        }
        let input_schema = self.schemas.assemble(input.schema, Side::Input, self.options.max_input_schema)?;
        let output = responses::read(&mut self.schemas, method, operation, self.options)?;
        let kind = match *method {
            _ if output.answers.streams => OperationType::Subscription,
            Method::GET | Method::HEAD => OperationType::Query,
            _ => OperationType::Mutation,
        };
        let spec = OperationSpec {
            name,
            namespace: self.options.namespace().to_owned(),
            version: self.version.clone(),
            kind,
            title: text(operation, "summary").map(|title| shortened(title, 200)),
            description: description(operation, method, &path),
            tags,
            input_schema,
            output_schema: output.schema,
            error_schemas: output.errors,
            access_control: self.access(),
            meta: Some(meta(operation, method, &path)),
        };
        let bytes = serde_json::to_string(&spec).map_or(usize::MAX, |text| text.len());
        if bytes > MAX_DECLARATION {
            return Err(ImportError::LargeOperation { bytes, limit: MAX_DECLARATION });
        }
        let plan = Plan {
            method: method.clone(),
            path,
            parameters: input.parameters,
            body: input.body,
            security,
            answers: output.answers,
        };
        Ok(Some(Imported { spec, plan }))
    }

    fn access(&self) -> AccessControl {
        let required_scopes = match &self.options.scopes {
            Some(scopes) => scopes.clone(),
            None => vec![format!("imported:{}", self.options.name)],
        };
        AccessControl { required_scopes, ..AccessControl::default() }
    }

    /// The path below the base; an operation or path with a server of its own must be on the same origin.
    fn path(&self, path: &str, item: &Value, operation: &Value) -> Result<String, ImportError> {
        if !path.starts_with('/') {
            return Err(ImportError::shape(path, "the path does not begin with a slash"));
        }
        let holder = [operation, item].into_iter().find(|holder| holder.get("servers").is_some());
        let (Some(holder), None, Some(base)) = (holder, &self.options.base_url, &self.base) else {
            return Ok(path.to_owned());
        };
        let own = server::url(holder, &self.options.server_variables, Some(base))?.map(server::base).transpose()?;
        let Some(own) = own else {
            return Ok(path.to_owned());
        };
        let below = own.path().strip_prefix(base.path().trim_end_matches('/'));
        match below.filter(|_| server::same_origin(&own, base)) {
            Some(below) => Ok(format!("{}{path}", below.trim_end_matches('/'))),
            None => Err(ImportError::Server(format!(
                "it is served by {} and not below {}: import it on its own with that base URL",
                own.host_str().unwrap_or_default(),
                base.host_str().unwrap_or_default()
            ))),
        }
    }

    /// What the operation, or else the document, wants callers to be known by.
    fn security(&self, operation: &Value) -> Result<Option<Vec<Vec<Scheme>>>, ImportError> {
        let declared = operation.get("security").or_else(|| self.document.root.get("security"));
        let Some(alternatives) = declared.and_then(Value::as_array) else {
            return Ok(None);
        };
        let schemes = self.document.root.pointer("/components/securitySchemes");
        let mut all = Vec::new();
        for alternative in alternatives.iter().filter_map(Value::as_object) {
            let mut needed = Vec::new();
            for name in alternative.keys() {
                let scheme = schemes.and_then(|all| all.get(name)).map(|s| self.document.resolve(s)).transpose()?;
                needed.push(scheme.map_or(Scheme::Other, scheme_of));
            }
            all.push(needed);
        }
        Ok(Some(all))
    }
}

fn scheme_of(scheme: &Value) -> Scheme {
    let name = text(scheme, "name").unwrap_or_default().to_owned();
    match (text(scheme, "type"), text(scheme, "in"), text(scheme, "scheme").map(str::to_ascii_lowercase).as_deref()) {
        (Some("http"), _, Some("basic")) => Scheme::Basic,
        (Some("http"), _, Some("bearer")) | (Some("oauth2" | "openIdConnect"), ..) => Scheme::Bearer,
        (Some("apiKey"), Some("header"), _) => Scheme::Key(KeyPlace::Header(name)),
        (Some("apiKey"), Some("query"), _) => Scheme::Key(KeyPlace::Query(name)),
        (Some("apiKey"), Some("cookie"), _) => Scheme::Key(KeyPlace::Cookie(name)),
        _ => Scheme::Other,
    }
}

fn tags(operation: &Value) -> Vec<String> {
    let own = operation.get("tags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let mut tags: Vec<String> = own.take(16).map(|tag| shortened(tag, 64)).collect();
    if flag(operation, "deprecated") == Some(true) {
        tags.push("deprecated".to_owned());
    }
    tags
}

fn description(operation: &Value, method: &Method, path: &str) -> String {
    let own = text(operation, "description").or_else(|| text(operation, "summary"));
    own.map_or_else(|| format!("{method} {path}"), |own| shortened(own.trim(), MAX_DESCRIPTION))
}

fn meta(operation: &Value, method: &Method, path: &str) -> Value {
    let mut meta = json!({ "source": "openapi", "method": method.as_str(), "path": path });
    if flag(operation, "deprecated") == Some(true) {
        meta["deprecated"] = true.into();
    }
    meta
}

/// The names in braces.
pub(super) fn placeholders(path: &str) -> Vec<String> {
    let parts = path.split('{').skip(1);
    parts.filter_map(|part| part.split_once('}')).map(|(name, _)| name.to_owned()).collect()
}

/// Three numbers, as a registry wants them; documents have dates and all else for a version.
fn version(text: &str) -> String {
    let text = text.trim().trim_start_matches(['v', 'V']);
    if semver::Version::parse(text).is_ok() {
        return text.to_owned();
    }
    let numbers: Vec<u64> = text.split('.').map_while(|part| part.parse().ok()).collect();
    match (numbers.as_slice(), numbers.len() == text.split('.').count()) {
        ([major], true) => format!("{major}.0.0"),
        ([major, minor], true) => format!("{major}.{minor}.0"),
        _ => "1.0.0".to_owned(),
    }
}

/// Whether a text fits a pattern in which `*` is any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text) in [("a", "a"), ("*", ""), ("*", "abc"), ("a*", "abc"), ("*c", "abc"), ("a*c*e", "abcde")] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*", "ba"), ("*c", "cd"), ("a*c*e", "ace!"), ("ab*bc", "abc")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn versions() {
        for (own, ours) in [
            ("1.2.3", "1.2.3"),
            ("v2", "2.0.0"),
            ("1.1", "1.1.0"),
            ("2024-01-01", "1.0.0"),
            ("", "1.0.0"),
            ("1.x", "1.0.0"),
            ("1.2.3-beta.1", "1.2.3-beta.1"),
        ] {
            assert_eq!(version(own), ours, "{own}");
        }
    }
}
