//! The crates of the workspace, as `cargo metadata` tells them.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::{cargo, output};

/// A member of the workspace.
#[derive(Debug, Default)]
pub(super) struct Package {
    pub(super) name: String,
    /// Path of its manifest, from the root.
    pub(super) manifest: String,
    pub(super) description: Option<String>,
    pub(super) dependencies: Vec<Dependency>,
    /// Root files of its library and binaries, from the root of the workspace.
    pub(super) entries: Vec<String>,
}

/// An entry of a dependency table.
#[derive(Debug)]
pub(super) struct Dependency {
    pub(super) name: String,
    pub(super) is_dev: bool,
}

impl Package {
    /// Asks cargo.
    ///
    /// # Errors
    /// Cargo failed, or told something else than expected.
    pub(super) fn read_all() -> Result<Vec<Self>> {
        let text = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let metadata: Value = serde_json::from_str(&text).context("`cargo metadata` printed no JSON")?;
        let root = string(&metadata, "workspace_root")? + "/";
        list(&metadata, "packages").iter().map(|package| Self::from_metadata(package, &root)).collect()
    }

    fn from_metadata(package: &Value, root: &str) -> Result<Self> {
        let relative = |path: String| path.strip_prefix(root).map(str::to_owned).unwrap_or(path).replace('\\', "/");
        let is_entry = |target: &&Value| list(target, "kind").iter().any(|kind| kind == "lib" || kind == "bin");
        let dependency = |entry: &Value| {
            let is_dev = entry.get("kind").and_then(Value::as_str) == Some("dev");
            Ok(Dependency { name: string(entry, "name")?, is_dev })
        };
        Ok(Self {
            name: string(package, "name")?,
            manifest: relative(string(package, "manifest_path")?),
            description: string(package, "description").ok(),
            dependencies: list(package, "dependencies").iter().map(dependency).collect::<Result<_>>()?,
            entries: (list(package, "targets").iter().filter(is_entry))
                .map(|target| string(target, "src_path").map(relative))
                .collect::<Result<_>>()?,
        })
    }
}

fn string(value: &Value, key: &str) -> Result<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned).with_context(|| format!("no {key} in `cargo metadata`"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_read_from_metadata() {
        let package = serde_json::json!({
            "name": "hub-core", "manifest_path": "/r/crates/hub-core/Cargo.toml", "description": null,
            "dependencies": [{"name": "tokio", "kind": null}, {"name": "tempfile", "kind": "dev"}],
            "targets": [
                {"kind": ["lib"], "src_path": "/r/crates/hub-core/src/lib.rs"},
                {"kind": ["test"], "src_path": "/r/crates/hub-core/tests/a.rs"},
            ],
        });
        let package = Package::from_metadata(&package, "/r/").unwrap();
        assert_eq!(package.manifest, "crates/hub-core/Cargo.toml");
        assert_eq!(package.description, None);
        assert_eq!(package.entries, ["crates/hub-core/src/lib.rs"]);
        assert_eq!(package.dependencies.iter().map(|d| d.is_dev).collect::<Vec<_>>(), [false, true]);
    }
}
