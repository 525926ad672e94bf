//! Functions that a pattern names in a file that does not have them.

/// A pattern that should match a file, and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFunction {
    /// The index of the pattern.
    pub pattern: usize,
    /// Whether the pattern names the file, so that another file with the function is no answer.
    pub names_file: bool,
    /// The function, if the pattern names one.
    pub function: Option<String>,
    /// What is missing.
    pub reason: String,
    /// Names in the file that are similar.
    pub similar: Vec<String>,
    /// Whether the file has no names of functions.
    pub is_stripped: bool,
    /// Where its separate debug file was searched, with the reason if a file there does not fit; empty if it
    /// was found, or not needed.
    pub searched: Vec<String>,
}

impl MissingFunction {
    /// The message for the user. `defined_in` is another file of the process that has the function.
    pub fn message(&self, defined_in: Option<&str>) -> String {
        let Self { function, reason, similar, .. } = self;
        match (defined_in, function, similar.as_slice()) {
            (Some(other), Some(function), _) => {
                format!("{reason}; {other} defines it: write '{other}:{function}'")
            }
            (_, _, []) if self.is_stripped => format!(
                "{reason}: the file has no symbols (it is stripped){}; write OBJECT:0xADDRESS to probe an address in it",
                self.debug_file()
            ),
            (_, _, []) => format!("{reason}{}", self.debug_file()),
            (_, _, similar) => {
                format!("{reason}{}; similar names: {}", self.debug_file(), similar.join(", "))
            }
        }
    }
}

impl MissingFunction {
    /// Where its separate debug file was searched.
    fn debug_file(&self) -> String {
        if self.searched.is_empty() {
            return String::new();
        }
        format!(", and its separate debug file is not at {}", self.searched.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_is_defined_matters_more_than_similar_names() {
        let missing = |similar: &[&str]| MissingFunction {
            pattern: 0,
            names_file: false,
            function: Some("curl_easy_perform".to_owned()),
            reason: "no function `curl_easy_perform`".to_owned(),
            similar: similar.iter().map(|name| (*name).to_owned()).collect(),
            is_stripped: similar.is_empty(),
            searched: vec!["/x/p.debug".to_owned()],
        };
        let defined = "no function `curl_easy_perform`; libcurl.so.4 defines it: write \
                       'libcurl.so.4:curl_easy_perform'";
        assert_eq!(missing(&["curl_easy"]).message(Some("libcurl.so.4")), defined);
        let similar = "no function `curl_easy_perform`, and its separate debug file is not at /x/p.debug; \
                       similar names: a, b";
        assert_eq!(missing(&["a", "b"]).message(None), similar);
        assert_eq!(missing(&[]).message(Some("libcurl.so.4")), defined);
        let stripped = missing(&[]).message(None);
        assert!(
            stripped.starts_with("no function `curl_easy_perform`: the file has no symbols"),
            "{stripped}"
        );
    }
}
