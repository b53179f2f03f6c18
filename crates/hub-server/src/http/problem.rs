use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use hub_core::CoreError;
use hub_protocol::{CallError, CallId, ErrorCode, Json, Violation};
use serde::Serialize;

/// An error as `application/problem+json` (RFC 9457) with the members of protocol §8. Boxed: it travels in `Result`s.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Problem(Box<Members>);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Members {
    #[serde(rename = "type")]
    kind: &'static str,
    title: String,
    status: u16,
    code: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call_id: Option<CallId>,
    retryable: bool,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Members {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            message: message.into(),
            details: None,
            call_id: None,
            retryable: false,
        }))
    }

    /// From a failed call; `status` is what the operation or the code says.
    pub(crate) fn of(error: CallError, status: u16, call_id: Option<CallId>) -> Self {
        let known = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let title = known.canonical_reason().unwrap_or("Client Closed Request").to_owned();
        let CallError { code, message, details, retryable } = error;
        let status = known.as_u16();
        Self(Box::new(Members { kind: "about:blank", title, status, code, message, details, call_id, retryable }))
    }

    /// The one answer to no key, a wrong one, an expired one and a revoked one.
    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            ErrorCode::AccessDenied.as_str(),
            "a valid key is needed: `Authorization: Bearer <key>`",
        )
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// The input does not fit at `path`.
    pub(crate) fn invalid(path: &str, message: &str) -> Self {
        let error = CallError::new(ErrorCode::ValidationError, message)
            .with_details(&[Violation { path: path.to_owned(), message: message.to_owned() }]);
        Self::of(error, ErrorCode::ValidationError.http_status(), None)
    }

    pub(crate) fn status(&self) -> u16 {
        self.0.status
    }
}

impl From<CoreError> for Problem {
    fn from(error: CoreError) -> Self {
        let error = CallError::from(error);
        let status = error.known().map_or(500, ErrorCode::http_status);
        Self::of(error, status, None)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = Json::from_serialize(&self).unwrap_or_default();
        let mut response = (status, body.as_str().to_owned()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
