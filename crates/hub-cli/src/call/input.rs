//! The input of a call, from arguments, a file or standard input.

use std::io::Read;

use hub_spoke::Json;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};

/// Largest input that is read; the hub's own limit is lower by default and names itself.
const MAX: u64 = 64 * 1024 * 1024;

/// Reads an input: nothing is `{}`; one argument may be JSON, `@FILE` or `-`; else all are `key=value` or
/// `key:=json`.
pub(crate) fn read(words: &[String], stdin: impl Read) -> Result<Json> {
    let [word] = words else {
        return if words.is_empty() { Ok(Value::Object(Map::new()).into()) } else { pairs(words) };
    };
    if word == "-" {
        return json(&text_of(stdin, "standard input")?, "standard input");
    }
    if let Some(path) = word.strip_prefix('@') {
        return json(&file(path)?, path);
    }
    // JSON goes on as it was written: no number loses a digit.
    match Json::from_text(word.clone()) {
        Ok(json) => Ok(json),
        Err(error) if word.trim_start().starts_with(['{', '[', '"']) => {
            Err(Failure::Usage(format!("the input is not JSON: {error}")))
        }
        Err(_) => pairs(words),
    }
}

/// JSON text of an option such as `--metadata`.
pub(crate) fn option(text: &str) -> Result<Json, String> {
    Json::from_text(text).map_err(|e| format!("not JSON: {e}"))
}

fn pairs(words: &[String]) -> Result<Json> {
    let mut object = Map::new();
    for word in words {
        let (key, value) = pair(word)?;
        if object.contains_key(key) {
            return Err(Failure::Usage(format!("the input has {key:?} twice")));
        }
        object.insert(key.to_owned(), value);
    }
    Ok(Value::Object(object).into())
}

fn pair(word: &str) -> Result<(&str, Value)> {
    let Some((key, value)) = word.split_once('=').filter(|(key, _)| !matches!(*key, "" | ":")) else {
        return Err(Failure::Usage(format!(
            "{word:?} is no input: give JSON, @FILE, - for standard input, or pairs like path=README.md and limit:=10"
        )));
    };
    let (key, raw) = key.strip_suffix(':').map_or((key, false), |key| (key, true));
    let text = match value.strip_prefix('@') {
        Some(path) => file(path)?,
        None => value.to_owned(),
    };
    if !raw {
        return Ok((key, Value::String(text)));
    }
    let value = serde_json::from_str(&text).map_err(|e| {
        Failure::Usage(format!("{key}:= takes JSON, and {text:?} is none: {e}; for a text write {key}=…"))
    })?;
    Ok((key, value))
}

fn json(text: &str, from: &str) -> Result<Json> {
    Json::from_text(text.trim()).map_err(|e| Failure::Usage(format!("{from} is not JSON: {e}")))
}

fn file(path: &str) -> Result<String> {
    let opened = std::fs::File::open(path);
    text_of(opened.map_err(|e| Failure::Usage(format!("cannot read {path:?}: {e}")))?, path)
}

fn text_of(from: impl Read, name: &str) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX + 1).read_to_end(&mut bytes).map_err(|e| Failure::Usage(format!("cannot read {name}: {e}")))?;
    if bytes.len() as u64 > MAX {
        return Err(Failure::Usage(format!("{name} has more than {MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| Failure::Usage(format!("{name} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<String> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        read(&words, &b" {\"from\": \"stdin\"}\n"[..]).map(|json| json.as_str().to_owned())
    }

    #[test]
    fn forms() {
        for (words, json) in [
            (&[][..], "{}"),
            (&["-"], "{\"from\": \"stdin\"}"),
            (&["{\"n\": 1e999}"], "{\"n\": 1e999}"),
            (&["5"], "5"),
            (&["path=a=b"], r#"{"path":"a=b"}"#),
            (&["path="], r#"{"path":""}"#),
            (&["a=1", "b:=1", "c:=[true]"], r#"{"a":"1","b":1,"c":[true]}"#),
            (&["url=http://h:=x"], r#"{"url":"http://h:=x"}"#),
        ] {
            assert_eq!(of(words).unwrap(), json, "{words:?}");
        }
    }

    #[test]
    fn files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.json");
        std::fs::write(&path, "{\"a\":1}\n").unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(of(&[&format!("@{path}")]).unwrap(), "{\"a\":1}");
        assert_eq!(of(&[&format!("text=@{path}")]).unwrap(), r#"{"text":"{\"a\":1}\n"}"#);
        assert_eq!(of(&[&format!("v:=@{path}")]).unwrap(), r#"{"v":{"a":1}}"#);
    }

    #[test]
    fn what_is_no_input_says_what_would_be() {
        for (words, says) in [
            (&["README.md"][..], "path=README.md"),
            (&["{\"a\":"], "not JSON"),
            (&["a=1", "a=2"], "twice"),
            (&["a:=x"], "a=…"),
            (&["=1"], "is no input"),
            (&[":=1"], "is no input"),
            (&["@/no/such/file"], "/no/such/file"),
            (&["{}", "a=1"], "is no input"),
        ] {
            let line = of(words).unwrap_err().line().unwrap();
            assert!(line.contains(says), "{words:?}: {line}");
        }
    }
}
