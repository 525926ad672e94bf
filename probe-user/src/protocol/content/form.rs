//! Forms: `name=value&name=value`.

use crate::event::percent_decoded;

/// The most fields that are shown.
const MAX_FIELDS: usize = 1000;

/// A field of a form.
#[derive(Clone, PartialEq, Eq)]
pub struct FormField {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// The fields of a form.
pub(super) fn fields(text: &str) -> Vec<FormField> {
    let fields = text.split('&').filter(|field| !field.is_empty()).take(MAX_FIELDS);
    let field = |field: &str| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        FormField { name: decoded(name), value: decoded(value) }
    };
    fields.map(field).collect()
}

fn decoded(text: &str) -> String {
    percent_decoded(&text.replace('+', " "))
}
