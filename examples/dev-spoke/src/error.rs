use hub_spoke::hub_protocol::ErrorDefinition;
use hub_spoke::{CallError, ErrorCode};
use serde_json::{Value, json};

/// Why a tool failed, in words for the model that called it: each says what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ToolError {
    #[error(
        "{path:?} is outside of the project folder: give a path relative to it, with no `..` and no link that leads out"
    )]
    Outside { path: String },
    #[error("there is no {path:?}: list its folder with fs.list")]
    NotFound { path: String },
    #[error("{path:?} is {is}, not a regular file")]
    NotAFile { path: String, is: &'static str },
    #[error("{path:?} is not a folder")]
    NotAFolder { path: String },
    #[error("the spoke has no right to do this to {path:?}")]
    Denied { path: String },
    #[error("{path:?} has {bytes} bytes, more than the limit of {limit}")]
    TooLarge { path: String, bytes: u64, limit: u64 },
    #[error("{path:?} is not UTF-8 text")]
    NotText { path: String },
    #[error("{path:?} has changed since you read it: read it again")]
    Changed { path: String, sha256: String },
    #[error("edit {edit}: oldText is not in the file: read it again and copy the text exactly, with its white space")]
    EditNotFound { edit: usize },
    #[error("edit {edit}: oldText begins on {} lines: give more of the text around it, or set all", lines.len())]
    EditNotUnique { edit: usize, lines: Vec<usize> },
    #[error("{which} can't be used: {reason}")]
    BadPattern { which: &'static str, reason: String },
    #[error("{limit} commands are running already")]
    Busy { limit: usize },
    #[error("no shell could be started")]
    NoShell,
    #[error("{path:?}: {kind}")]
    Io { path: String, kind: std::io::ErrorKind },
}

impl ToolError {
    /// What an error of the system means for `path`.
    pub(crate) fn of_io(path: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let path = path.to_owned();
        match error.kind() {
            // An escape is refused by the kernel or by cap-std; only the latter has no number of the system.
            K::PermissionDenied if error.raw_os_error().is_none() => Self::Outside { path },
            K::PermissionDenied | K::ReadOnlyFilesystem => Self::Denied { path },
            K::NotFound | K::NotADirectory | K::InvalidFilename => Self::NotFound { path },
            K::IsADirectory => Self::NotAFile { path, is: "a folder" },
            kind => {
                tracing::debug!(%error, "a file operation failed");
                Self::Io { path, kind }
            }
        }
    }

    const fn code(&self) -> &'static str {
        match self {
            Self::Outside { .. } => OUTSIDE_ROOT.0,
            Self::NotFound { .. } => FILE_NOT_FOUND.0,
            Self::NotAFile { .. } => NOT_A_FILE.0,
            Self::NotAFolder { .. } => NOT_A_FOLDER.0,
            Self::Denied { .. } => PERMISSION_DENIED.0,
            Self::TooLarge { .. } => TOO_LARGE.0,
            Self::NotText { .. } => NOT_TEXT.0,
            Self::Changed { .. } => FILE_CHANGED.0,
            Self::EditNotFound { .. } => EDIT_NOT_FOUND.0,
            Self::EditNotUnique { .. } => EDIT_NOT_UNIQUE.0,
            Self::BadPattern { .. } => BAD_PATTERN.0,
            Self::Busy { .. } => ErrorCode::Overloaded.as_str(),
            Self::NoShell | Self::Io { .. } => ErrorCode::ExecutionError.as_str(),
        }
    }

    fn details(&self) -> Option<Value> {
        Some(match self {
            Self::Outside { path }
            | Self::NotFound { path }
            | Self::NotAFile { path, .. }
            | Self::NotAFolder { path }
            | Self::Denied { path }
            | Self::NotText { path } => json!({ "path": path }),
            Self::TooLarge { path, bytes, limit } => json!({ "path": path, "bytes": bytes, "limit": limit }),
            Self::Changed { path, sha256 } => json!({ "path": path, "sha256": sha256 }),
            Self::EditNotFound { edit } => json!({ "edit": edit }),
            Self::EditNotUnique { edit, lines } => json!({ "edit": edit, "lines": lines }),
            Self::BadPattern { which, .. } => json!({ "parameter": which }),
            Self::Busy { limit } => json!({ "limit": limit }),
            Self::NoShell | Self::Io { .. } => return None,
        })
    }
}

impl From<ToolError> for CallError {
    fn from(error: ToolError) -> Self {
        let call =
            Self::domain(error.code(), error.to_string()).with_retryable(matches!(error, ToolError::Busy { .. }));
        match error.details() {
            Some(details) => call.with_details(&details),
            None => call,
        }
    }
}

/// Code, HTTP status, when it happens, and the members of its details.
pub(crate) type Declared = (&'static str, u16, &'static str, &'static [(&'static str, &'static str)]);

const PATH: (&str, &str) = ("path", "string");

pub(crate) const OUTSIDE_ROOT: Declared = ("OUTSIDE_ROOT", 403, "The path leads out of the project folder.", &[PATH]);
pub(crate) const FILE_NOT_FOUND: Declared = ("FILE_NOT_FOUND", 404, "There is nothing at the path.", &[PATH]);
pub(crate) const NOT_A_FILE: Declared = ("NOT_A_FILE", 409, "The path is a folder or a special file.", &[PATH]);
pub(crate) const NOT_A_FOLDER: Declared = ("NOT_A_FOLDER", 409, "The path is no folder.", &[PATH]);
pub(crate) const PERMISSION_DENIED: Declared =
    ("PERMISSION_DENIED", 403, "The spoke's user has no right to it, or the file is read-only.", &[PATH]);
pub(crate) const TOO_LARGE: Declared =
    ("TOO_LARGE", 413, "The file is over the spoke's limit.", &[PATH, ("bytes", "integer"), ("limit", "integer")]);
pub(crate) const NOT_TEXT: Declared = ("NOT_TEXT", 415, "The file is not UTF-8 text.", &[PATH]);
pub(crate) const FILE_CHANGED: Declared =
    ("FILE_CHANGED", 409, "The file is not what expectedSha256 says.", &[PATH, ("sha256", "string")]);
pub(crate) const EDIT_NOT_FOUND: Declared =
    ("EDIT_NOT_FOUND", 404, "An oldText is not in the file; edit is its index.", &[("edit", "integer")]);
pub(crate) const EDIT_NOT_UNIQUE: Declared = (
    "EDIT_NOT_UNIQUE",
    409,
    "An oldText is in the file more than once; lines are where it begins.",
    &[("edit", "integer"), ("lines", "array")],
);
pub(crate) const BAD_PATTERN: Declared =
    ("BAD_PATTERN", 422, "The regular expression or glob is malformed.", &[("parameter", "string")]);

/// The declaration of an error as `hub.schema` shows it.
pub(crate) fn definition((code, status, description, members): Declared) -> ErrorDefinition {
    let properties: serde_json::Map<_, _> =
        members.iter().map(|(name, kind)| ((*name).to_owned(), json!({ "type": kind }))).collect();
    let required: Vec<_> = members.iter().map(|(name, _)| *name).collect();
    ErrorDefinition {
        code: code.to_owned(),
        description: description.to_owned(),
        schema: json!({ "type": "object", "properties": properties, "required": required }),
        http_status: Some(status),
    }
}
