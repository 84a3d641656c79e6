//! The formats of output for programs, all made from the JSON of the API. Control and format
//! characters, which could control a terminal or reorder what it shows, are escaped in JSON, and
//! replaced in YAML and CSV.

use std::fmt::Write as _;
use std::sync::OnceLock;

use serde::{Deserialize as _, Serialize};
use serde_norway::Value;

use super::text::clean;
use crate::names::is_invisible;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table or a text, in which times of lists are ages such as "3 m ago".
    Table,
    /// A table or a text with exact times.
    Wide,
    /// The service's response as JSON.
    Json,
    /// A line of JSON for each element of a list.
    Jsonl,
    /// The answer as YAML.
    Yaml,
    /// A line for each element of a list, and a header. Nested values are JSON.
    Csv,
}

/// The format of this process. Set once, before anything is printed: it is as global as the
/// standard output that it is for.
static FORMAT: OnceLock<Format> = OnceLock::new();

impl Format {
    /// Sets the format of this process, once.
    pub fn choose(self) {
        FORMAT.get_or_init(|| self);
    }

    /// The format of this process; with exact times if none was chosen.
    pub fn chosen() -> Self {
        FORMAT.get().copied().unwrap_or(Self::Wide)
    }

    /// The text of a value in this format; `None` for those for people.
    pub fn text(self, value: &impl Serialize) -> anyhow::Result<Option<String>> {
        Ok(Some(match self {
            Self::Table | Self::Wide => return Ok(None),
            Self::Json => escaped(&serde_json::to_string_pretty(value)?),
            Self::Jsonl => match list(ordered(value)?) {
                Ok(elements) => {
                    let lines = elements.iter().map(serde_json::to_string);
                    escaped(&lines.collect::<Result<Vec<_>, _>>()?.join("\n"))
                }
                Err(value) => escaped(&serde_json::to_string(&value)?),
            },
            Self::Yaml => serde_norway::to_string(&cleaned(ordered(value)?))?.trim_end().to_owned(),
            Self::Csv => csv(ordered(value)?)?,
        }))
    }
}

/// A value with its members in their order.
fn ordered(value: &impl Serialize) -> anyhow::Result<Value> {
    let text = serde_json::to_string(value)?;
    Ok(Value::deserialize(&mut serde_json::Deserializer::from_str(&text))?)
}

/// The elements of a list of the API; otherwise the value.
fn list(mut value: Value) -> Result<Vec<Value>, Value> {
    match value.get_mut("list").map(std::mem::take) {
        Some(Value::Sequence(elements)) => Ok(elements),
        Some(other) => {
            value["list"] = other;
            Err(value)
        }
        None => Err(value),
    }
}

/// JSON with control and format characters as escapes. They only occur in strings.
pub fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || !is_invisible(c) {
            text.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(clean_lines(&text)),
        Value::Sequence(list) => list.into_iter().map(cleaned).collect::<Vec<_>>().into(),
        Value::Mapping(members) => {
            let members = members.into_iter().map(|(name, value)| (cleaned(name), cleaned(value)));
            Value::Mapping(members.collect())
        }
        other => other,
    }
}

fn clean_lines(text: &str) -> String {
    text.split('\n').map(clean).collect::<Vec<_>>().join("\n")
}

fn csv(value: Value) -> anyhow::Result<String> {
    let rows = list(value).unwrap_or_else(|value| vec![value]);
    let mut columns: Vec<&str> = Vec::new();
    for row in &rows {
        let names = row.as_mapping().into_iter().flat_map(|members| members.keys());
        for name in names.filter_map(Value::as_str) {
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
    }
    if columns.is_empty() {
        return Ok(String::new());
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns.iter().map(|name| clean(name)))?;
    for row in &rows {
        let cells = columns.iter().map(|name| cell(row.get(*name)));
        writer.write_record(cells.collect::<anyhow::Result<Vec<_>>>()?)?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?.trim_end().to_owned())
}

fn cell(value: Option<&Value>) -> anyhow::Result<String> {
    Ok(match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => no_formula(clean_lines(text)),
        Some(other) => escaped(&serde_json::to_string(other)?),
    })
}

/// Text that a spreadsheet takes for text: one that would begin a formula is put after an
/// apostrophe, as OWASP recommends against CSV injection. Tabs and line breaks at the beginning, which
/// spreadsheets skip, begin one, too.
fn no_formula(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\u{fffd}']) {
        format!("'{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    #[derive(Serialize)]
    struct Page {
        count: usize,
        list: Vec<Row>,
    }

    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        at: Option<i64>,
        labels: Vec<&'static str>,
        payload: Box<RawValue>,
    }

    fn page() -> Page {
        let payload = || RawValue::from_string("{\"b\":1.5,\"a\":\"x\"}".to_owned()).unwrap();
        let row = |name, at| Row { name, at, labels: vec!["a,b"], payload: payload() };
        Page { count: 2, list: vec![row("b\u{1b}[31m\"", Some(1)), row("\u{202e}a", None)] }
    }

    fn text(format: Format) -> String {
        format.text(&page()).unwrap().unwrap()
    }

    #[test]
    fn members_keep_their_order_and_characters_are_inert() {
        assert_eq!(
            text(Format::Jsonl).lines().next().unwrap(),
            r#"{"name":"b\u001b[31m\"","at":1,"labels":["a,b"],"payload":{"b":1.5,"a":"x"}}"#
        );
        assert!(text(Format::Json).contains("\\u202ea"));
        let yaml = text(Format::Yaml);
        assert!(yaml.starts_with("count: 2\nlist:\n- name: "), "{yaml}");
        let csv = text(Format::Csv);
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "name,at,labels,payload");
        assert_eq!(
            lines[1],
            "\"b\u{fffd}[31m\"\"\",1,\"[\"\"a,b\"\"]\",\"{\"\"b\"\":1.5,\"\"a\"\":\"\"x\"\"}\""
        );
        for format in [Format::Json, Format::Jsonl, Format::Yaml, Format::Csv] {
            let text = text(format);
            assert!(text.chars().all(|c| c == '\n' || !is_invisible(c)), "{format:?}: {text:?}");
        }
    }

    #[test]
    fn text_that_begins_a_formula_is_marked_and_numbers_are_not() {
        let row = |value: serde_json::Value| {
            let text = Format::Csv.text(&serde_json::json!({"a": value})).unwrap().unwrap();
            text.strip_prefix("a\n").unwrap().to_owned()
        };
        for text in ["=1+2", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"] {
            assert!(row(text.into()).trim_start_matches('"').starts_with('\''), "{text:?}");
        }
        for (value, shown) in
            [((-1).into(), "-1"), ("a=b".into(), "a=b"), ("2026-01-31".into(), "2026-01-31")]
        {
            assert_eq!(row(value), shown);
        }
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({"a": "\u{202e}\u{e0001}\u{9b}\n"});
        let text = escaped(&value.to_string());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn a_single_object_is_one_row() {
        let value = serde_json::json!({"a": 1});
        assert_eq!(Format::Csv.text(&value).unwrap().unwrap(), "a\n1");
        assert_eq!(Format::Jsonl.text(&value).unwrap().unwrap(), "{\"a\":1}");
        assert_eq!(Format::Table.text(&value).unwrap(), None);
    }
}
