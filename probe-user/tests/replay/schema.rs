//! A record against `ctrace schema`: the part of JSON Schema that the schema uses, and more strictly:
//! a field that the schema does not name is an error.

use ctrace::output;
use serde_json::{Map, Value};

/// Fails unless the schema describes the record.
pub(crate) fn check(record: &Value) {
    let schema: Value = serde_json::from_str(&output::schema()).unwrap();
    let result = Schema { root: &schema }.check(&schema, record);
    assert!(result.is_ok(), "{}\n{record:#}", result.unwrap_err());
}

/// The names of all fields, and the values of all enumerations.
pub(crate) fn names() -> Vec<String> {
    let mut names = Vec::new();
    collect(&serde_json::from_str(&output::schema()).unwrap(), &mut names);
    assert!(names.len() > 30, "{names:?}");
    names
}

fn collect(schema: &Value, names: &mut Vec<String>) {
    for (keyword, argument) in schema.as_object().into_iter().flatten() {
        match (keyword.as_str(), argument) {
            ("properties", Value::Object(fields)) => names.extend(fields.keys().cloned()),
            ("const", Value::String(name)) => names.push(name.clone()),
            ("enum", Value::Array(values)) => {
                names.extend(values.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            _ => {}
        }
        let below: Vec<_> = argument.as_array().map_or_else(|| vec![argument], |list| list.iter().collect());
        for schema in below {
            collect(schema, names);
        }
    }
}

struct Schema<'a> {
    root: &'a Value,
}

/// Keywords that say nothing about validity.
const NOTES: &[&str] = &["$schema", "$defs", "title", "description", "format", "contentEncoding", "maximum"];

impl Schema<'_> {
    fn check(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let Value::Object(keywords) = schema else { return Err(format!("not a schema: {schema}")) };
        for (keyword, argument) in keywords {
            match keyword.as_str() {
                "$ref" => {
                    let pointer = argument.as_str().unwrap().strip_prefix('#').unwrap();
                    self.check(self.root.pointer(pointer).unwrap(), value)?;
                }
                "anyOf" | "oneOf" => {
                    let tries: Vec<_> =
                        argument.as_array().unwrap().iter().map(|schema| self.check(schema, value)).collect();
                    let fits = tries.iter().filter(|result| result.is_ok()).count();
                    // A number may fit several types of numbers.
                    if fits == 0 || (fits > 1 && !value.is_number()) {
                        return Err(format!("{value} is not exactly one of: {tries:?}"));
                    }
                }
                "const" if argument != value => return Err(format!("{value} is not {argument}")),
                "enum" if !argument.as_array().unwrap().contains(value) => {
                    return Err(format!("{value} is not one of {argument}"));
                }
                "minimum" if value.is_number() && value.as_f64() < argument.as_f64() => {
                    return Err(format!("{value} is less than {argument}"));
                }
                "type" => check_type(argument, value)?,
                "properties" => self.properties(argument, value)?,
                "required" if value.is_object() => {
                    let missing = argument
                        .as_array()
                        .unwrap()
                        .iter()
                        .find(|name| value.get(name.as_str().unwrap()).is_none());
                    if let Some(name) = missing {
                        return Err(format!("{name} is missing"));
                    }
                }
                "items" => {
                    for value in value.as_array().into_iter().flatten() {
                        self.check(argument, value)?;
                    }
                }
                "const" | "enum" | "minimum" | "required" => {}
                "additionalProperties" => {
                    for value in value.as_object().into_iter().flat_map(Map::values) {
                        self.check(argument, value)?;
                    }
                }
                note if NOTES.contains(&note) => {}
                other => panic!("this test does not know the keyword {other}"),
            }
        }
        Ok(())
    }

    fn properties(&self, properties: &Value, value: &Value) -> Result<(), String> {
        for (name, value) in value.as_object().into_iter().flatten() {
            let schema = properties.get(name).ok_or_else(|| format!("{name} is not in the schema"))?;
            self.check(schema, value).map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(())
    }
}

fn check_type(names: &Value, value: &Value) -> Result<(), String> {
    let is = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("this test does not know the type {other}"),
    };
    let fits = names.as_array().map_or_else(|| is(names), |names| names.iter().any(is));
    if fits { Ok(()) } else { Err(format!("{value} is not of type {names}")) }
}
