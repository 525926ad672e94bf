//! Bodies of protocol buffers by a schema, of any bytes: what is shown of them is JSON, and bounded.

use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use ctrace::event::Role;
use ctrace::protocol::content::{Schema, Whole};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

/// Types with all kinds of fields.
const SOURCES: [(&str, &str); 2] = [
    ("shop.proto", include_str!("../../probe-user/tests/data/shop.proto")),
    ("old.proto", include_str!("../../probe-user/tests/data/old.proto")),
];
const METHODS: [&str; 5] =
    ["shop.v1.Shop/Scalar", "shop.v1.Shop/Map", "shop.v1.Shop/Choose", "shop.v1.Shop/Sum", "old.Old/Call"];
const LIMIT: usize = 64 * 1024;

struct Sources;

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let source = SOURCES.iter().find(|(has, _)| *has == name);
        let (name, source) = source.ok_or_else(|| protox::Error::file_not_found(name))?;
        File::from_source(name, source)
    }
}

static SCHEMA: LazyLock<Result<Schema>> = LazyLock::new(|| {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_files(SOURCES.map(|(name, _)| name))?;
    let mut schema = Schema::default();
    schema.add(&compiler.encode_file_descriptor_set())?;
    Ok(schema)
});

/// Shows a body. The first byte of an input chooses its type, whether it is whole, and the limit; if it is
/// too large for that, the rest is taken for a descriptor set. An error is a finding.
pub fn run(input: &[u8]) -> Result<()> {
    let Some((&choice, data)) = input.split_first() else { return Ok(()) };
    if choice >= 200 {
        // An error is a valid result, too.
        let _ = Schema::default().add(data);
        return Ok(());
    }
    let schema = SCHEMA.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
    let method = METHODS.get(usize::from(choice >> 3) % METHODS.len()).context("there are some")?;
    let sender = if choice & 1 == 0 { Role::Client } else { Role::Server };
    let whole = if choice & 2 == 0 { Whole::Yes } else { Whole::No };
    let limit = if choice & 4 == 0 { LIMIT } else { 100 };
    let Ok(json) = schema.json((method, sender), data, whole, limit) else { return Ok(()) };
    // A text is whole, and each of its bytes may need six; each level is closed; defaults are not in the
    // bytes.
    let longest = limit + data.len() * 8 + 1000;
    ensure!(json.text.len() <= longest, "{} bytes of JSON of {}", json.text.len(), data.len());
    serde_json::from_str::<&serde_json::value::RawValue>(&json.text).with_context(|| json.text.clone())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_body_is_shown() -> Result<()> {
        for choice in 0..=255 {
            run(&[choice])?;
            run(&[[choice].as_slice(), b"\x0a\x02\x08\x01\x12\x04\x0a\x02hi\x18\x01"].concat())?;
            run(&[[choice].as_slice(), &(0..=255).cycle().take(1000).collect::<Vec<u8>>()].concat())?;
        }
        Ok(())
    }
}
