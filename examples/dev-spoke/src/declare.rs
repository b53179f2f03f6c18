//! Declarations with error schemas, titles and scopes, which the SDK's short forms leave out.

use std::sync::Arc;

use hub_spoke::hub_protocol::ops::schema_of;
use hub_spoke::hub_protocol::{AccessControl, OperationType};
use hub_spoke::{CallError, CancellationToken, ErrorCode, Json, OperationSpec, Reply, SpokeBuilder};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{self, Declared, ToolError};
use crate::root::Root;

/// What the types of an operation don't say.
pub(crate) struct Tool {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) kind: OperationType,
    /// A key needs it; `dev:*` stands for all of them.
    pub(crate) scope: &'static str,
    pub(crate) errors: &'static [Declared],
}

impl Tool {
    pub(crate) fn spec<P: JsonSchema, R: JsonSchema>(&self) -> OperationSpec {
        OperationSpec {
            name: String::new(),
            namespace: String::new(),
            version: "1.0.0".to_owned(),
            kind: self.kind,
            title: Some(self.title.to_owned()),
            description: self.description.to_owned(),
            tags: vec!["dev".to_owned()],
            input_schema: schema_of::<P>(),
            output_schema: schema_of::<R>(),
            error_schemas: self.errors.iter().copied().map(error::definition).collect(),
            access_control: AccessControl::scopes(&[self.scope]),
            meta: None,
        }
        .with_id(self.id)
    }
}

/// Work on files: it runs on a thread of its own and looks at the token wherever it can stop.
pub(crate) type Work<P, R> = fn(&Root, P, &CancellationToken) -> Result<R, ToolError>;

/// Adds an operation that works on files.
pub(crate) fn offer<P, R>(spoke: SpokeBuilder, root: &Arc<Root>, tool: &Tool, work: Work<P, R>) -> SpokeBuilder
where
    P: DeserializeOwned + JsonSchema + Send + 'static,
    R: Serialize + JsonSchema + Send + 'static,
{
    let root = Arc::clone(root);
    spoke.raw(tool.spec::<P, R>(), move |context, input| {
        let root = Arc::clone(&root);
        async move {
            let params = parse(&input)?;
            let stop = context.aborted().clone();
            // An aborted call leaves the thread to finish alone; what it does is bounded and whole.
            let done = tokio::task::spawn_blocking(move || work(&root, params, &stop)).await;
            let reply = done.map_err(|_| CallError::new(ErrorCode::ExecutionError, "the tool panicked"))??;
            encode(&reply).map(Reply::Value)
        }
    })
}

/// Reads an input that the hub has checked against the schema; no input is an empty one.
pub(crate) fn parse<P: DeserializeOwned>(input: &Json) -> Result<P, CallError> {
    let parsed = if input.is_null() { serde_json::from_str("{}") } else { input.parse() };
    parsed.map_err(|e: serde_json::Error| {
        let message = format!("the input does not fit its schema, at line {} column {}", e.line(), e.column());
        CallError::new(ErrorCode::ValidationError, message)
    })
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Json, CallError> {
    Json::from_serialize(value)
        .map_err(|_| CallError::new(ErrorCode::ExecutionError, "the reply cannot be written as JSON"))
}
