//! Versions of what is imported.

use hub_protocol::OperationSpec;

/// With a mark of the declaration in its version, behind a `+`: what is imported changes while its version stays, and a
/// hub takes one version of an operation only once.
pub(crate) fn marked(mut spec: OperationSpec) -> OperationSpec {
    spec.version.truncate(spec.version.find('+').unwrap_or(spec.version.len()));
    let text = serde_json::to_value(&spec).unwrap_or_default().to_string();
    // The same for all time, unlike the standard library's hashes.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mark = text.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    spec.version = format!("{}+{mark:016x}", spec.version);
    spec
}
