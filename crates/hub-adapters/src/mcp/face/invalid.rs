//! Requests that the SDK knows by name and cannot read: it takes them for methods that it does not know.

use rmcp::ErrorData;
use rmcp::model::{
    CallToolRequestParams, CancelTaskParams, CustomRequest, ErrorCode, GetTaskParams, ReadResourceRequestParams,
    SubscriptionsListenRequestParams, UpdateTaskParams,
};
use serde::de::DeserializeOwned;
use serde_json::json;

/// The parameters, or what is wrong with them.
pub(super) fn params<T: DeserializeOwned>(request: &CustomRequest) -> Result<T, ErrorData> {
    let params = request.params.clone().unwrap_or_else(|| json!({}));
    serde_json::from_value(params)
        .map_err(|error| ErrorData::invalid_params(format!("the parameters do not fit: {error}"), None))
}

/// Why a request was not taken for what its method says.
pub(super) fn why(request: &CustomRequest) -> ErrorData {
    let read = match request.method.as_str() {
        "tools/call" => params::<CallToolRequestParams>(request).map(drop),
        "resources/read" => params::<ReadResourceRequestParams>(request).map(drop),
        "subscriptions/listen" => params::<SubscriptionsListenRequestParams>(request).map(drop),
        "tasks/get" => params::<GetTaskParams>(request).map(drop),
        "tasks/update" => params::<UpdateTaskParams>(request).map(drop),
        "tasks/cancel" => params::<CancelTaskParams>(request).map(drop),
        _ => Ok(()),
    };
    read.err().unwrap_or_else(|| unknown(request))
}

pub(super) fn unknown(request: &CustomRequest) -> ErrorData {
    ErrorData::new(ErrorCode::METHOD_NOT_FOUND, request.method.clone(), None)
}
