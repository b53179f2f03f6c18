//! `fs.write`

use hub_spoke::CancellationToken;
use hub_spoke::hub_protocol::OperationType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::declare::Tool;
use crate::error::{FILE_CHANGED, FILE_NOT_FOUND, NOT_A_FILE, OUTSIDE_ROOT, PERMISSION_DENIED, TOO_LARGE, ToolError};
use crate::root::{Root, sha256};

pub(crate) const TOOL: Tool = Tool {
    id: "fs.write",
    title: "Write a file",
    description: "Write a whole text file of the project, in one step: readers see the old content or the new. Give \
        expectedSha256 from fs.read to be sure that you overwrite only what you have seen. To change a part of a file \
        use fs.edit.",
    kind: OperationType::Mutation,
    scope: "dev:write",
    errors: &[FILE_NOT_FOUND, NOT_A_FILE, OUTSIDE_ROOT, PERMISSION_DENIED, TOO_LARGE, FILE_CHANGED],
};

/// Input of `fs.write`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WriteFile {
    /// File, relative to the project folder.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// The whole new content.
    pub content: String,
    /// Make the folders on the way to it. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_dirs: Option<bool>,
    /// SHA-256 in hex of the content that is to be overwritten; anything else there is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub expected_sha256: Option<String>,
}

/// Output of `fs.write`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WrittenFile {
    /// As asked for.
    pub path: String,
    /// Whether there was no such file before.
    pub created: bool,
    /// Size now.
    pub bytes: usize,
    /// SHA-256 of the content now, in hex.
    pub sha256: String,
}

pub(crate) fn write(root: &Root, params: WriteFile, _: &CancellationToken) -> Result<WrittenFile, ToolError> {
    let WriteFile { path, content, create_dirs, expected_sha256 } = params;
    root.small(&path, content.len() as u64)?;
    let _changing = root.changing();
    let target = root.target(&path, create_dirs.unwrap_or(false) && expected_sha256.is_none())?;
    if let Some(expected) = expected_sha256 {
        unchanged(&path, &expected, &root.read(&path)?)?;
    }
    target.replace(content.as_bytes()).map_err(|e| ToolError::of_io(&path, &e))?;
    let created = target.existing.is_none();
    Ok(WrittenFile { path, created, bytes: content.len(), sha256: sha256(content.as_bytes()) })
}

/// Refuses when the content is not the one that the caller has seen.
pub(super) fn unchanged(path: &str, expected: &str, content: &[u8]) -> Result<(), ToolError> {
    let sha256 = sha256(content);
    if sha256 == expected { Ok(()) } else { Err(ToolError::Changed { path: path.to_owned(), sha256 }) }
}
