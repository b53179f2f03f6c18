use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::StatusCode;
use http::request::Parts;
use hub_protocol::{CallError, ErrorCode, Json};
use serde::de::DeserializeOwned;

use super::{App, Problem};

/// A body that is one JSON value, bounded in size and time; an empty one is null.
pub(crate) struct JsonBody(pub(crate) Json);

impl FromRequest<App> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let bytes = read(request.into_body(), app).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(Json::null()));
        }
        let text = String::from_utf8(bytes).map_err(|_| Problem::bad_request("the body is not UTF-8"))?;
        // Line and column only: the parser's text may quote what was sent.
        let json = Json::from_text(text).map_err(|e| {
            Problem::bad_request(format!("the body is not JSON: line {} column {}", e.line(), e.column()))
        })?;
        Ok(Self(json))
    }
}

impl JsonBody {
    /// The value as `T`.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        self.0.read().map_err(|at| Problem::invalid(&at.path, &at.message))
    }
}

/// The one parameter in the path, with errors in the form that all errors have.
pub(crate) struct Segment(pub(crate) String);

impl FromRequestParts<App> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, app).await;
        path.map(|Path(text)| Self(text)).map_err(|e| Problem::bad_request(e.body_text()))
    }
}

/// The query string, with errors in the form that all errors have.
pub(crate) struct Params<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query.map(|Query(params)| Self(params)).map_err(|e| Problem::invalid("", &e.body_text()))
    }
}

/// A body, bounded in size and time.
pub(crate) async fn read(body: Body, app: &App) -> Result<Vec<u8>, Problem> {
    let bounds = &app.config.bounds;
    let reading = axum::body::to_bytes(body, bounds.message);
    match tokio::time::timeout(bounds.body, reading).await {
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        Ok(Err(error)) if is_limit(&error) => {
            let limit = bounds.message;
            let error = CallError::new(ErrorCode::PayloadTooLarge, format!("a body has at most {limit} bytes"))
                .with_details(&serde_json::json!({ "limit": limit, "of": "bodyBytes" }));
            Err(Problem::of(error, ErrorCode::PayloadTooLarge.http_status(), None))
        }
        Ok(Err(_)) => Err(Problem::bad_request("the body ended early")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", "the body took too long")),
    }
}

fn is_limit(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = cause.source();
    }
    false
}
