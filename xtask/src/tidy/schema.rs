//! Checks that the documentation of the records names every field of their JSON Schema.
//!
//! Owns that comparison. The schema comes from `ctrace schema`, so there is no second list of fields here.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{shell, workspace};

/// The document that describes the fields.
const DOCUMENT: &str = "docs/events.md";

pub(super) fn check() -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["run", "--quiet", "--package", "ctrace", "--", "schema"]).current_dir(workspace::root());
    let schema: Value =
        serde_json::from_str(&shell::read(&mut cargo)?).context("`ctrace schema` is not JSON")?;
    let path = workspace::root().join(DOCUMENT);
    let document = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let missing = undescribed(&schema, &document);
    if !missing.is_empty() {
        bail!("{DOCUMENT} does not name {}", missing.into_iter().collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

/// Fields of a schema that a document does not name as code, alone or in a dotted path.
fn undescribed(schema: &Value, document: &str) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    collect(schema, &mut fields);
    let code: BTreeSet<&str> = document
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '`' || c == '.' || c == '"'))
        .filter(|word| word.contains(['`', '"', '.']))
        .flat_map(|word| word.split(['`', '"', '.']))
        .collect();
    fields.retain(|field| !code.contains(field.as_str()));
    fields
}

fn collect(schema: &Value, fields: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                fields.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| collect(value, fields));
        }
        Value::Array(array) => array.iter().for_each(|value| collect(value, fields)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_the_document_lacks_are_named() {
        let schema = serde_json::json!({
            "properties": {"time": {}, "call": {"$ref": "#/$defs/Call"}},
            "$defs": {"Call": {"properties": {"length": {}, "offset": {}}}},
        });
        let check = |document, expected: &[&str]| {
            assert_eq!(
                undescribed(&schema, document).iter().map(String::as_str).collect::<Vec<_>>(),
                expected
            );
        };
        check("| `time` | when |\n| `call.length` | bytes |\n| `call.offset` | place |", &[]);
        check("The time of a `call`.", &["length", "offset", "time"]);
        check("", &["call", "length", "offset", "time"]);
    }
}
