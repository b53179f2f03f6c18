//! Values in paths, queries, headers, cookies and forms: the styles of the specification, after RFC 6570.

use serde_json::{Map, Value};

use super::plan::{Form, Style};

/// What a text may hold without being percent-encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Unreserved characters only.
    Strict,
    /// Also the reserved ones that mean nothing in a query.
    Reserved,
    /// Everything: headers are no URLs.
    None,
}

impl Encoding {
    fn of(form: Form) -> Self {
        if form.allow_reserved { Self::Reserved } else { Self::Strict }
    }

    pub(super) fn apply(self, text: &str) -> String {
        if self == Self::None {
            return text.to_owned();
        }
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            // Without & # + [ ] and %: those would change what is read.
            if plain || (self == Self::Reserved && b":/?@!$'()*,;=".contains(&byte)) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }
}

/// A path parameter as it stands in the path.
pub(super) fn in_path(name: &str, value: &Value, form: Form) -> String {
    let encoding = Encoding::Strict;
    match form.style {
        Style::Label => labelled(value, form.explode, encoding),
        Style::Matrix => matrix(name, value, form.explode, encoding),
        Style::Json => encoding.apply(&value.to_string()),
        _ => simple(value, form.explode, encoding),
    }
}

/// A header's value. Not encoded: the caller checks that it is one.
pub(super) fn in_header(value: &Value, form: Form) -> String {
    if form.style == Style::Json { value.to_string() } else { simple(value, form.explode, Encoding::None) }
}

/// Pairs of a query, form or cookie, encoded. A null has none.
pub(super) fn pairs(name: &str, value: &Value, form: Form) -> Vec<(String, String)> {
    let encoding = Encoding::of(form);
    let key = Encoding::Strict.apply(name);
    let separator = match form.style {
        Style::SpaceDelimited => "%20",
        Style::PipeDelimited => "%7C",
        _ => ",",
    };
    match (value, form.style) {
        (Value::Null, _) => Vec::new(),
        (_, Style::Json) => vec![(key, Encoding::Strict.apply(&value.to_string()))],
        (Value::Array(_) | Value::Object(_), Style::DeepObject) => {
            let mut found = Vec::new();
            deep(&key, value, encoding, &mut found);
            found
        }
        (Value::Array(items), _) if form.explode => {
            items.iter().map(|item| (key.clone(), encoding.apply(&text_of(item)))).collect()
        }
        // An empty list has no way to be written.
        (Value::Array(items), _) if items.is_empty() => Vec::new(),
        (Value::Array(items), _) => vec![(key, joined(items, separator, encoding))],
        (Value::Object(members), Style::Form) if form.explode => {
            let present = members.iter().filter(|(_, value)| !value.is_null());
            present.map(|(name, value)| (Encoding::Strict.apply(name), encoding.apply(&text_of(value)))).collect()
        }
        (Value::Object(members), _) if members.is_empty() => Vec::new(),
        (Value::Object(members), _) => vec![(key, alternating(members, separator, encoding))],
        (one, _) => vec![(key, encoding.apply(&text_of(one)))],
    }
}

/// `key[a][0]=v`: lists by index, which those that read the style understand.
fn deep(key: &str, value: &Value, encoding: Encoding, found: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(members) => {
            for (name, value) in members {
                deep(&format!("{key}%5B{}%5D", Encoding::Strict.apply(name)), value, encoding, found);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                deep(&format!("{key}%5B{at}%5D"), item, encoding, found);
            }
        }
        one => found.push((key.to_owned(), encoding.apply(&text_of(one)))),
    }
}

fn simple(value: &Value, explode: bool, encoding: Encoding) -> String {
    match value {
        Value::Array(items) => joined(items, ",", encoding),
        Value::Object(members) if explode => assigned(members, ",", encoding),
        Value::Object(members) => alternating(members, ",", encoding),
        one => encoding.apply(&text_of(one)),
    }
}

fn labelled(value: &Value, explode: bool, encoding: Encoding) -> String {
    let separator = if explode { "." } else { "," };
    let inner = match value {
        Value::Array(items) => joined(items, separator, encoding),
        Value::Object(members) if explode => assigned(members, separator, encoding),
        Value::Object(members) => alternating(members, separator, encoding),
        one => encoding.apply(&text_of(one)),
    };
    format!(".{inner}")
}

fn matrix(name: &str, value: &Value, explode: bool, encoding: Encoding) -> String {
    let name = encoding.apply(name);
    let one = |text: String| if text.is_empty() { format!(";{name}") } else { format!(";{name}={text}") };
    match value {
        Value::Array(items) if explode => items.iter().map(|item| one(encoding.apply(&text_of(item)))).collect(),
        Value::Array(items) => one(joined(items, ",", encoding)),
        Value::Object(members) if explode => format!(";{}", assigned(members, ";", encoding)),
        Value::Object(members) => one(alternating(members, ",", encoding)),
        other => one(encoding.apply(&text_of(other))),
    }
}

fn joined(items: &[Value], separator: &str, encoding: Encoding) -> String {
    items.iter().map(|item| encoding.apply(&text_of(item))).collect::<Vec<_>>().join(separator)
}

/// `k=v,k=v`
fn assigned(members: &Map<String, Value>, separator: &str, encoding: Encoding) -> String {
    let one = |(key, value): (&String, &Value)| format!("{}={}", encoding.apply(key), encoding.apply(&text_of(value)));
    members.iter().map(one).collect::<Vec<_>>().join(separator)
}

/// `k,v,k,v`
fn alternating(members: &Map<String, Value>, separator: &str, encoding: Encoding) -> String {
    let parts = members.iter().flat_map(|(key, value)| [encoding.apply(key), encoding.apply(&text_of(value))]);
    parts.collect::<Vec<_>>().join(separator)
}

/// A scalar as text; what nests where the specification has no way to write it, as JSON.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form(style: Style, explode: bool) -> Form {
        Form { style, explode, allow_reserved: false }
    }

    fn query(value: &Value, style: Style, explode: bool) -> String {
        let pairs = pairs("color", value, form(style, explode));
        pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&")
    }

    /// The table of the specification, members in alphabetical order.
    #[test]
    fn the_table_of_styles() {
        let (empty, string) = (json!(""), json!("blue"));
        let (array, object) = (json!(["blue", "black", "brown"]), json!({"B": 150, "G": 200, "R": 100}));
        for (style, explode, wanted) in [
            (Style::Simple, false, ["", "blue", "blue,black,brown", "B,150,G,200,R,100"]),
            (Style::Simple, true, ["", "blue", "blue,black,brown", "B=150,G=200,R=100"]),
            (Style::Label, false, [".", ".blue", ".blue,black,brown", ".B,150,G,200,R,100"]),
            (Style::Label, true, [".", ".blue", ".blue.black.brown", ".B=150.G=200.R=100"]),
            (Style::Matrix, false, [";color", ";color=blue", ";color=blue,black,brown", ";color=B,150,G,200,R,100"]),
            (
                Style::Matrix,
                true,
                [";color", ";color=blue", ";color=blue;color=black;color=brown", ";B=150;G=200;R=100"],
            ),
        ] {
            for (value, wanted) in [&empty, &string, &array, &object].iter().zip(wanted) {
                assert_eq!(in_path("color", value, form(style, explode)), wanted, "{style:?} {explode}");
            }
        }
        for (style, explode, wanted) in [
            (Style::Form, false, ["color=", "color=blue", "color=blue,black,brown", "color=B,150,G,200,R,100"]),
            (Style::Form, true, ["color=", "color=blue", "color=blue&color=black&color=brown", "B=150&G=200&R=100"]),
            (
                Style::SpaceDelimited,
                false,
                ["color=", "color=blue", "color=blue%20black%20brown", "color=B%20150%20G%20200%20R%20100"],
            ),
            (
                Style::PipeDelimited,
                false,
                ["color=", "color=blue", "color=blue%7Cblack%7Cbrown", "color=B%7C150%7CG%7C200%7CR%7C100"],
            ),
            (
                Style::DeepObject,
                true,
                [
                    "color=",
                    "color=blue",
                    "color%5B0%5D=blue&color%5B1%5D=black&color%5B2%5D=brown",
                    "color%5BB%5D=150&color%5BG%5D=200&color%5BR%5D=100",
                ],
            ),
        ] {
            for (value, wanted) in [&empty, &string, &array, &object].iter().zip(wanted) {
                assert_eq!(query(value, style, explode), wanted, "{style:?} {explode}");
            }
        }
    }

    #[test]
    fn what_nests() {
        let value = json!({"card": {"number": "42", "tags": ["a", "b"]}, "none": null});
        let wanted =
            "color%5Bcard%5D%5Bnumber%5D=42&color%5Bcard%5D%5Btags%5D%5B0%5D=a&color%5Bcard%5D%5Btags%5D%5B1%5D=b";
        assert_eq!(query(&value, Style::DeepObject, true), wanted);
        assert_eq!(query(&json!({"a": {"b": 1}}), Style::Json, false), "color=%7B%22a%22%3A%7B%22b%22%3A1%7D%7D");
        assert_eq!(query(&json!([{"a": 1}]), Style::Form, true), "color=%7B%22a%22%3A1%7D");
        assert_eq!(query(&json!(null), Style::Form, true), "");
        assert_eq!(query(&json!([]), Style::Form, false), "");
    }

    #[test]
    fn nothing_breaks_out() {
        let hostile = json!("a/../b?c=d&e#f g%00\r\n\u{e9}");
        let wanted = "a%2F..%2Fb%3Fc%3Dd%26e%23f%20g%2500%0D%0A%C3%A9";
        assert_eq!(in_path("p", &hostile, form(Style::Simple, false)), wanted);
        assert_eq!(query(&hostile, Style::Form, true), format!("color={wanted}"));
        let reserved = Form { style: Style::Form, explode: true, allow_reserved: true };
        assert_eq!(pairs("p", &json!("a/b?c=d&e#f+g"), reserved)[0].1, "a/b?c=d%26e%23f%2Bg");
    }
}
