//! Messages by their schema. The oracle of the mapping is prost-reflect, which encodes messages and writes
//! them as JSON itself.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

mod random;

use prost_reflect::prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use serde_json::Value;

use super::super::Whole;
use super::schema::{MessageJson, Schema, SchemaError};
use crate::event::Role;

const SHOP: &str = include_str!("../../../../tests/data/shop.proto");

const OLD: &str = include_str!("../../../../tests/data/old.proto");

/// Sources by their names.
struct Sources(Vec<(&'static str, &'static str)>);

impl FileResolver for Sources {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let source = self.0.iter().find(|(has, _)| *has == name);
        let (name, source) = source.ok_or_else(|| protox::Error::file_not_found(name))?;
        File::from_source(name, source)
    }
}

/// What the files contain, as a descriptor set and by the oracle.
fn compiled() -> (Vec<u8>, DescriptorPool) {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources(vec![("shop.proto", SHOP), ("old.proto", OLD)]));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_files(["shop.proto", "old.proto"]).unwrap();
    (compiler.encode_file_descriptor_set(), compiler.descriptor_pool())
}

fn schema() -> (Schema, DescriptorPool) {
    let (set, pool) = compiled();
    let mut schema = Schema::default();
    schema.add(&set).unwrap();
    (schema, pool)
}

const SCALARS: (&str, Role) = ("shop.v1.Shop/Scalar", Role::Client);
const LISTS: (&str, Role) = ("shop.v1.Shop/Scalar", Role::Server);
const MAPS: (&str, Role) = ("shop.v1.Shop/Map", Role::Client);
const WELL_KNOWN: (&str, Role) = ("shop.v1.Shop/Map", Role::Server);
const CHOICE: (&str, Role) = ("shop.v1.Shop/Choose", Role::Client);
const TREE: (&str, Role) = ("shop.v1.Shop/Choose", Role::Server);
const VALUE: (&str, Role) = ("shop.v1.Shop/Sum", Role::Client);
const ANY: (&str, Role) = ("shop.v1.Shop/Sum", Role::Server);
const OLD_REQUEST: (&str, Role) = ("old.Old/Call", Role::Client);

const LIMIT: usize = 10_000;

fn name_of(kind: (&str, Role)) -> &'static str {
    match kind {
        SCALARS => "shop.v1.Scalars",
        LISTS => "shop.v1.Lists",
        MAPS => "shop.v1.Maps",
        WELL_KNOWN => "shop.v1.WellKnown",
        CHOICE => "shop.v1.Choice",
        TREE => "shop.v1.Tree",
        VALUE => "google.protobuf.Value",
        ANY => "google.protobuf.Any",
        OLD_REQUEST => "old.Request",
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_json_says_comes_back() {
    let (schema, pool) = schema();
    let check = |kind: (&str, Role), json: &str| {
        let of = pool.get_message_by_name(name_of(kind)).unwrap();
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let message = DynamicMessage::deserialize(of, &mut deserializer).unwrap();
        let found = schema.json(kind, &message.encode_to_vec(), Whole::Yes, LIMIT).unwrap();
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!((value(&found.text), found.is_whole), (value(json), true), "{json}: {}", found.text);
    };
    check(SCALARS, "{}");
    check(SCALARS, r#"{"aDouble": 0.1, "aFloat": 1.5, "anInt32": -7, "anInt64": "-9223372036854775808"}"#);
    check(SCALARS, r#"{"aUint32": 4294967295, "aUint64": "18446744073709551615", "aSint32": -2147483648}"#);
    check(SCALARS, r#"{"aSint64": "-9223372036854775808", "aFixed32": 1, "aFixed64": "2"}"#);
    check(SCALARS, r#"{"aSfixed32": -3, "aSfixed64": "-4", "aBool": true, "aString": "ä\"\\\n\u0001"}"#);
    check(SCALARS, r#"{"someBytes": "AP8=", "colour": "RED", "maybe": 0, "other-name": "x"}"#);
    check(SCALARS, r#"{"colour": "BLUE", "aDouble": "NaN", "aFloat": "-Infinity"}"#);
    check(SCALARS, r#"{"colour": 77, "aDouble": 1e300, "aFloat": 1e-7}"#);
    check(
        LISTS,
        r#"{"packed": [1, -1, 300], "unpacked": ["-1", "2"], "doubles": [0, 0.5], "fixed": [7, 8]}"#,
    );
    check(LISTS, r#"{"texts": ["", "a"], "messages": [{}, {"anInt32": 1}], "bools": [true, false]}"#);
    check(LISTS, r#"{"colours": ["NONE", "BLUE", 9]}"#);
    check(MAPS, r#"{"byText": {"": {}, "a": {"anInt32": 1}}, "byInt32": {"-1": "x", "10": "", "9": "y"}}"#);
    check(MAPS, r#"{"byUint64": {"18446744073709551615": "RED", "0": "NONE"}, "byBool": {"true": 0.5}}"#);
    check(MAPS, r#"{"bySint64": {"-5": "AA=="}, "byFixed32": {"1": "1970-01-01T00:00:00Z"}}"#);
    check(MAPS, r#"{"bySfixed64": {"-1": {"children": [{"name": "a"}]}}}"#);
    check(CHOICE, r#"{"number": 0, "beside": 1}"#);
    check(CHOICE, r#"{"text": ""}"#);
    check(CHOICE, r#"{"tree": {}}"#);
    check(CHOICE, r#"{"nothing": null}"#);
    check(TREE, r#"{"name": "a", "children": [{"only": {"name": "b"}}, {}], "only": {}}"#);
    for text in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2026-11-30T09:14:02.120Z"] {
        check(WELL_KNOWN, &format!(r#"{{"time": "{text}"}}"#));
    }
    for text in ["0s", "1.500s", "-0.000001s", "-315576000000s", "315576000000.999999999s"] {
        check(WELL_KNOWN, &format!(r#"{{"took": "{text}"}}"#));
    }
    check(WELL_KNOWN, r#"{"mask": "fooBar,a.bC", "empty": {}, "aDouble": 0, "anInt64": "0", "aUint32": 3}"#);
    check(WELL_KNOWN, r#"{"aBool": false, "aString": "", "someBytes": "AA==", "list": [], "object": {}}"#);
    check(WELL_KNOWN, r#"{"object": {"a": [1, "b", null, {"c": false}], "b": {}}, "value": null}"#);
    check(WELL_KNOWN, r#"{"list": [[], {}, 0.5], "value": {"a": "b"}}"#);
    check(WELL_KNOWN, r#"{"any": {"@type": "type.googleapis.com/shop.v1.Tree", "name": "a", "only": {}}}"#);
    let of_google = r#"{"@type": "x/google.protobuf.Duration", "value": "1s"}"#;
    check(
        WELL_KNOWN,
        &format!(r#"{{"several": [{of_google}, {{"@type": "x/google.protobuf.Empty", "value": {{}}}}]}}"#),
    );
    check(WELL_KNOWN, &format!(r#"{{"any": {{"@type": "/google.protobuf.Any", "value": {of_google}}}}}"#));
    check(VALUE, "true");
    check(VALUE, r#"["a"]"#);
    check(
        OLD_REQUEST,
        r#"{"id": 0, "name": "x", "item": [{"size": 1, "inner": {"a": "b"}}, {}], "packed": [1]}"#,
    );
    check(OLD_REQUEST, r#"{"[old.note]": "a", "[old.numbers]": [-1, 2]}"#);
}

fn check_bytes(kind: (&str, Role), data: &[u8], expected: Result<&str, &str>) {
    let (schema, _) = schema();
    let found = schema.json(kind, data, Whole::Yes, LIMIT);
    let found = found.as_ref().map(|json| json.text.as_str()).map_err(String::as_str);
    assert_eq!(found, expected, "{data:x?}");
}

#[test]
fn what_serializers_do_not_write() {
    // Packed as if it were not, not packed as if it were, and both.
    check_bytes(LISTS, b"\x08\x01\x0a\x02\x02\x03\x08\x04", Ok(r#"{"packed":[1,2,3,4]}"#));
    check_bytes(LISTS, b"\x12\x02\x01\x04\x10\x01", Ok(r#"{"unpacked":["-1","2","-1"]}"#));
    check_bytes(LISTS, b"\x0a\0", Ok("{}"));
    // The last one of several values counts, and messages are merged.
    check_bytes(SCALARS, b"\x18\x01\x18\x02", Ok(r#"{"anInt32":2}"#));
    check_bytes(SCALARS, b"\x18\x01\x18\0", Ok("{}"));
    check_bytes(TREE, b"\x1a\x03\x0a\x01a\x1a\x02\x12\0", Ok(r#"{"only":{"name":"a","children":[{}]}}"#));
    // The last member of a oneof counts, and one that was replaced is not merged with.
    check_bytes(CHOICE, b"\x08\x01\x12\x01a\x28\x01", Ok(r#"{"text":"a","beside":1}"#));
    check_bytes(CHOICE, b"\x1a\x03\x0a\x01a\x08\x01\x1a\x02\x12\0", Ok(r#"{"tree":{"children":[{}]}}"#));
    // Entries of maps without a key, without a value, and of the same key.
    check_bytes(MAPS, b"\x0a\0\x12\0", Ok(r#"{"byText":{"":{}},"byInt32":{"0":""}}"#));
    check_bytes(MAPS, b"\x12\x05\x08\x01\x12\x01a\x12\x05\x08\x01\x12\x01b", Ok(r#"{"byInt32":{"1":"b"}}"#));
    check_bytes(MAPS, b"\x12\x03\x12\x01a\x12\x02\x08\x09", Ok(r#"{"byInt32":{"0":"a","9":""}}"#));
    check_bytes(
        MAPS,
        b"\x1a\0\x22\0\x32\0",
        Ok(r#"{"byUint64":{"0":"NONE"},"byBool":{"false":0},"byFixed32":{"0":"1970-01-01T00:00:00Z"}}"#),
    );
    // A number that is too large for its type, and a negative one of ten bytes.
    check_bytes(SCALARS, b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Ok(r#"{"anInt32":-1}"#));
    check_bytes(SCALARS, b"\x28\x81\x80\x80\x80\x10", Ok(r#"{"aUint32":1}"#));
    check_bytes(SCALARS, b"\x68\x02", Ok(r#"{"aBool":true}"#));
    // A message as a group, which editions have.
    check_bytes(TREE, b"\x1b\x0a\x01a\x1c", Ok(r#"{"only":{"name":"a"}}"#));
    check_bytes(SCALARS, b"\x09\0\0\0\0\0\0\xf0\x3f\x15\0\0\0\x3f", Ok(r#"{"aDouble":1,"aFloat":0.5}"#));
}

#[test]
fn what_has_no_form_of_its_own_is_shown_by_its_fields() {
    let check = |data: &[u8], expected: &str| check_bytes(WELL_KNOWN, data, Ok(expected));
    // A billion of nanoseconds, a year 10000, signs that differ, more than 10 000 years.
    check(b"\x12\x06\x10\x80\x94\xeb\xdc\x03", r#"{"time":{"nanos":1000000000}}"#);
    check(b"\x12\x07\x08\x80\xdc\xae\xec\xcf\x49", r#"{"time":{"seconds":"2529694559744"}}"#);
    check(
        b"\x1a\x0d\x08\x01\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        r#"{"took":{"seconds":"1","nanos":-1}}"#,
    );
    check(b"\x1a\x07\x08\x80\xdc\xae\xec\xcf\x49", r#"{"took":{"seconds":"2529694559744"}}"#);
    check(b"\x12\x02\x18\x01", r#"{"time":{"3":"1"}}"#);
    check(b"\x22\x07\x0a\x05a__bc", r#"{"mask":{"paths":["a__bc"]}}"#);
    check(b"\x32\x09\x11\0\0\0\0\0\0\xf8\x7f", r#"{"value":"NaN"}"#);
    check(b"\x32\x04\x20\x01\x38\x01", r#"{"value":{"boolValue":true,"7":"1"}}"#);
    // Types that nobody knows, or that the value does not have.
    check(b"\x0a\x08\x0a\x02/X\x12\x02\x08\x05", r#"{"any":{"@type":"/X","1":"5"}}"#);
    check(b"\x0a\x08\x0a\x02/X\x12\x02\xff\xff", r#"{"any":{"@type":"/X","value":"//8="}}"#);
    let wrong = b"\x0a\x13\x0a\x0d/shop.v1.Tree\x12\x02\x08\x05";
    check(wrong, r#"{"any":{"@type":"/shop.v1.Tree","1":"5"}}"#);
    check(b"\x0a\0", r#"{"any":{}}"#);
}

#[test]
fn unknown_fields_are_shown_by_their_numbers() {
    check_bytes(TREE, b"\x0a\x01a\x48\x05\x50\x01\x50\x02", Ok(r#"{"name":"a","9":"5","10":["1","2"]}"#));
    let data = b"\x4d\x01\0\0\0\x49\x02\0\0\0\0\0\0\0\x4a\x02hi\x4a\x02\x08\x07\x4a\x02\xff\xfe";
    check_bytes(TREE, data, Ok(r#"{"9":[1,"2","hi",{"1":"7"},"//4="]}"#));
    check_bytes(TREE, b"\x4b\x08\x01\x53\x54\x4c", Ok(r#"{"9":{"1":"1","10":{}}}"#));
    check_bytes(TREE, b"\x12\x02\x48\x01", Ok(r#"{"children":[{"9":"1"}]}"#));
}

#[test]
fn what_is_no_message_of_the_type() {
    let check = |kind: (&str, Role), data: &[u8], expected: &str| {
        let expected = format!("it is no {} of the schema: {expected}", name_of(kind));
        check_bytes(kind, data, Err(&expected));
    };
    check(SCALARS, b"\x18", "it ends within a field");
    check(SCALARS, b"\x72\x05abc", "it ends within a field");
    check(SCALARS, b"\x1f\x01", "there are bytes that are no field");
    check(SCALARS, b"\x1a\x01\x01", "in anInt32, there is a value of another kind");
    check(SCALARS, b"\x72\x01\xff", "in aString, there is a text that is not UTF-8");
    check(LISTS, b"\x32\x02\x18\x01\x32\x02\x18\xff", "in messages, it ends within a field");
    check(LISTS, b"\x0a\x01\xff", "in packed, it ends within a field");
    check(LISTS, b"\x1a\x07\0\0\0\0\0\0\0", "in doubles, it ends within a field");
    check(MAPS, b"\x0a\x06\x0a\x01k\x12\x01\x08", "in byText.k, it ends within a field");
    check(MAPS, b"\x0a\x02\x08\x01", "in byText, there is a key of another kind");
    check(TREE, b"\x1b\x0a\x01a\x24", "there are bytes that are no field");
    check(TREE, b"\x1b\x0a\x01a", "it ends within a field");
    check(TREE, b"\x08\x01", "in name, there is a value of another kind");
    let unknown = Err("no schema has the method shop.v1.Shop/Nothing");
    check_bytes(("shop.v1.Shop/Nothing", Role::Client), b"", unknown);
    check_bytes(("Nothing", Role::Client), b"", Err("no schema has the method Nothing"));
}

#[test]
fn what_was_not_kept_is_shown_as_far_as_it_goes() {
    let (schema, _) = schema();
    let check = |kind: (&str, Role), data: &[u8], expected: &str| {
        let found = schema.json(kind, data, Whole::No, LIMIT);
        assert_eq!(found, Ok(MessageJson { text: expected.to_owned(), is_whole: false }), "{data:x?}");
    };
    check(SCALARS, b"\x18\x01\x18", r#"{"anInt32":1}"#);
    check(SCALARS, b"\x18\x01\x72\x09ab\xc3", r#"{"anInt32":1,"aString":"ab"}"#);
    check(SCALARS, b"\x7a\x09\0\xff", r#"{"someBytes":"AP8="}"#);
    check(LISTS, b"\x0a\x09\x01\x02\x80", r#"{"packed":[1,2]}"#);
    check(LISTS, b"\x22\x09\x01\0\0\0\x02", r#"{"fixed":[1]}"#);
    check(
        TREE,
        b"\x12\x20\x0a\x01a\x1a\x10\x0a\x08bc",
        r#"{"children":[{"name":"a","only":{"name":"bc"}}]}"#,
    );
    check(MAPS, b"\x12\x03\x12\x01a\x12\x20\x08\x09", r#"{"byInt32":{"0":"a"}}"#);
    check(TREE, b"\x1b\x0a\x01a", "{}");
    check(TREE, b"", "{}");
    let wrong = schema.json(TREE, b"\x08\x01\x12\x20", Whole::No, LIMIT).unwrap_err();
    assert!(wrong.contains("in name"), "{wrong}");
}

#[test]
fn output_and_depth_are_limited() {
    let (schema, _) = schema();
    let list = b"\x2a\x03abc".repeat(10_000);
    let found = schema.json(LISTS, &list, Whole::Yes, 1000).unwrap();
    assert!(!found.is_whole && found.text.len() < 1100, "{}", found.text.len());
    serde_json::from_str::<Value>(&found.text).unwrap();
    for (field, deepest) in [(3_u32, 99), (2, 99)] {
        let mut data = Vec::new();
        for depth in 0..200 {
            let found = schema.json(TREE, &data, Whole::Yes, LIMIT);
            assert_eq!(found.is_ok(), depth <= deepest, "{depth}");
            let _ = schema.json(TREE, data.get(..data.len() / 2).unwrap(), Whole::No, LIMIT);
            let mut outer = Vec::new();
            super::wire::push_bytes(field, &data, &mut outer);
            data = outer;
        }
    }
    // Groups within groups, and what looks like messages within messages.
    let groups = [b"\x4b".repeat(100), b"\x4c".repeat(100)].concat();
    assert!(schema.json(TREE, &groups, Whole::Yes, LIMIT).is_err());
    let mut data = b"\x08\x01".to_vec();
    for _ in 0..60 {
        let mut outer = Vec::new();
        super::wire::push_bytes(9, &data, &mut outer);
        data = outer;
    }
    let found = schema.json(TREE, &data, Whole::Yes, LIMIT).unwrap();
    assert_eq!(found.text.matches('{').count(), 33, "{}", found.text);
}

#[test]
fn descriptor_sets() {
    let add = |set: &[u8]| Schema::default().add(set);
    assert!(matches!(add(b""), Err(SchemaError::NoDescriptorSet)));
    assert!(matches!(add(b"syntax = \"proto3\";"), Err(SchemaError::NoDescriptorSet)));
    assert!(matches!(add(b"\x08\x01"), Err(SchemaError::NoDescriptorSet)));
    assert!(matches!(add(b"\x0a\x0b\x0a\x01a\x62\x06proto9"), Err(SchemaError::NoDescriptorSet)));
    // Without what it imports.
    let importing = b"\x0a\x14\x0a\x01a\x1a\x07b.protob\x06proto3";
    let Err(SchemaError::Inconsistent(error)) = add(importing) else { panic!() };
    assert_eq!(format!("{error:?}"), "a: imported file 'b.proto' has not been added");
    let (set, _) = compiled();
    let mut schema = Schema::default();
    assert!(schema.has_no_service());
    schema.add(&set).unwrap();
    assert!(!schema.has_no_service());
    assert_eq!(format!("{schema:?}"), "Schema(1 sets, 9 files)");
}

/// Of a file with an edition, the syntax is `editions`, and its number is in a field of its own.
#[test]
fn editions() {
    let file = DescriptorPool::decode(compiled().0.as_slice()).unwrap();
    let file = file.get_file_by_name("old.proto").unwrap().encode_to_vec();
    let (mut edited, mut rest) = (Vec::new(), file.as_slice());
    while !rest.is_empty() {
        let before = rest;
        let field = super::wire::field(&mut rest).unwrap_or_else(|error| panic!("{error:?}"));
        if field.number != 12 {
            edited.extend_from_slice(&before[..before.len() - rest.len()]);
        }
    }
    super::wire::push_bytes(12, b"editions", &mut edited);
    edited.extend_from_slice(b"\x70\xe8\x07");
    let mut set = Vec::new();
    super::wire::push_bytes(1, &edited, &mut set);
    let mut schema = Schema::default();
    schema.add(&set).unwrap();
    let found = schema.json(OLD_REQUEST, b"\x08\0\x20\x05", Whole::Yes, LIMIT).unwrap();
    assert_eq!(found.text, r#"{"id":0,"packed":[5]}"#);
}
