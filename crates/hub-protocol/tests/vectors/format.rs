//! The vectors' format as types; `vectors/README.md` explains it.

use std::path::PathBuf;

use bytes::Bytes;
use hub_protocol::{FaultCode, IdStyle, Json};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::meaning::Meaning;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File<C> {
    #[serde(rename = "about")]
    _about: String,
    kind: String,
    cases: Vec<C>,
}

/// Every vector file: its name, its kind and its text.
pub(crate) fn files() -> Vec<(String, String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read_to_string(&path).unwrap();
            let file: File<serde::de::IgnoredAny> =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            assert!(!file.cases.is_empty(), "{path:?} has no cases");
            files.push((path.display().to_string(), file.kind, text));
        }
    }
    assert!(!files.is_empty(), "no vectors found");
    files.sort();
    files
}

/// All cases of one kind, each with the file it is from.
pub(crate) fn cases<C: DeserializeOwned>(kind: &str) -> Vec<(String, C)> {
    let of_kind = files().into_iter().filter(|f| f.1 == kind);
    of_kind
        .flat_map(|(path, _, text)| {
            let file: File<C> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
            file.cases.into_iter().map(move |case| (path.clone(), case))
        })
        .collect()
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    In,
    Out,
    Both,
    Refuse,
}

#[derive(Deserialize, Clone)]
#[serde(untagged)]
pub(crate) enum Text {
    Plain(String),
    Repeated(Vec<(String, usize)>),
}

impl Text {
    pub(crate) fn get(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Repeated(parts) => parts.iter().map(|(part, times)| part.repeat(*times)).collect(),
        }
    }

    pub(crate) fn json(&self) -> Json {
        Json::from_text(self.get()).unwrap()
    }
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Style {
    Empty,
    Envelope,
}

impl From<Style> for IdStyle {
    fn from(style: Style) -> Self {
        match style {
            Style::Empty => Self::Empty,
            Style::Envelope => Self::Envelope,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct FrameCase {
    pub(crate) name: String,
    pub(crate) direction: Direction,
    frame: Option<Text>,
    frame_hex: Option<String>,
    pub(crate) style: Option<Style>,
    pub(crate) event: Option<Meaning>,
    pub(crate) fault: Option<FaultMeaning>,
    pub(crate) error: Option<ErrorMeaning>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

impl FrameCase {
    pub(crate) fn bytes(&self) -> Bytes {
        match (&self.frame, &self.frame_hex) {
            (Some(text), None) => text.get().into(),
            (None, Some(hex)) => {
                let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
                (0..hex.len()).step_by(2).map(byte).collect()
            }
            _ => panic!("{}: needs frame or frameHex", self.name),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultMeaning {
    pub(crate) code: FaultCode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ErrorMeaning {
    pub(crate) known: bool,
    pub(crate) retryable: bool,
    pub(crate) http_status: Option<u16>,
}
