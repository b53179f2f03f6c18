//! Writes the seed corpus of target `frame` from the test vectors.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here.join("corpus/frame");
    fs::create_dir_all(&corpus)?;
    let mut written = 0;
    for entry in fs::read_dir(here.join("../vectors"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let file: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        for (n, case) in file["cases"].as_array().into_iter().flatten().enumerate() {
            let response = case["text"].as_str().filter(|_| file["kind"] == "responses");
            let seed = match response {
                Some(output) => Some(
                    format!(r#"{{"type":"call.responded","id":"r","payload":{{"output":{output}}}}}"#).into_bytes(),
                ),
                None => {
                    text(&case["frame"]).or_else(|| text(&case["head"])).map(String::into_bytes).or_else(|| hex(case))
                }
            };
            if let Some(seed) = seed {
                fs::write(corpus.join(format!("{stem}-{n:03}")), seed)?;
                written += 1;
            }
        }
    }
    println!("{written} seeds in {}", corpus.display());
    Ok(())
}

/// Text of the vectors: a string, or a list of strings and how often they are repeated. Deep nesting is kept shallow,
/// because long seeds make the fuzzer slow.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Array(parts) => parts
            .iter()
            .map(|part| Some(part[0].as_str()?.repeat(usize::try_from(part[1].as_u64()?).ok()?.min(200))))
            .collect(),
        other => other.as_str().map(str::to_owned),
    }
}

fn hex(case: &Value) -> Option<Vec<u8>> {
    let digits = case["frameHex"].as_str()?;
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(digits.get(i..i + 2)?, 16).ok()).collect()
}
