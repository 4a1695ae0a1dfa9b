//! The JSON Schema of the routing file, made from its types: editors complete and check with it.

use schemars::{generate::SchemaSettings, transform::RestrictFormats};
use serde_json::{Map, Value, json};

use super::Config;

/// The schema, as it is committed in `config/weft.schema.json`.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RestrictFormats::default());
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<Config>()
        .to_value();
    as_it_is_read(&mut schema);
    if let Value::Object(schema) = &mut schema {
        schema.insert("title".into(), "weft's routing file".into());
    }
    schema
}

/// What the types cannot say of themselves.
fn as_it_is_read(value: &mut Value) {
    match value {
        Value::Object(map) => {
            without_local_default(map);
            without_null(map);
            with_reference(map);
            map.values_mut().for_each(as_it_is_read);
        }
        Value::Array(items) => items.iter_mut().for_each(as_it_is_read),
        _ => {}
    }
}

/// Takes out a default that this machine's environment decides, or of a whole mapping, whose keys say it already.
fn without_local_default(map: &mut Map<String, Value>) {
    let words = map.get("description").and_then(Value::as_str);
    let local = words.is_some_and(|words| words.contains('$'));
    if local || map.get("default").is_some_and(Value::is_object) {
        map.remove("default");
    }
}

/// A key that is left out is not null: nothing after a `:` is an error.
fn without_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(kinds)) = map.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [one] = kinds.as_slice() {
            let one = one.clone();
            map.insert("type".into(), one);
        }
    }
    if let Some(Value::Array(kinds)) = map.get_mut("anyOf") {
        kinds.retain(|kind| kind.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(one)] = kinds.as_slice() {
            let one = one.clone();
            map.remove("anyOf");
            map.extend(one);
        }
    }
}

/// `${NAME}` stands wherever a scalar does.
fn with_reference(map: &mut Map<String, Value>) {
    const REFERENCE: &str = "\\$\\{";
    if let Some(Value::String(pattern)) = map.get_mut("pattern")
        && pattern != REFERENCE
    {
        *pattern = format!("{pattern}|{REFERENCE}");
    }
    if map
        .get("type")
        .is_some_and(|kind| kind == "integer" || kind == "boolean")
    {
        let kind = map["type"].take();
        map.insert("type".into(), json!([kind, "string"]));
        map.insert("pattern".into(), REFERENCE.into());
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(Value::Array(kinds)) = map.get_mut(key)
            && kinds.iter().any(|kind| kind.get("const").is_some())
        {
            kinds.push(json!({ "type": "string", "pattern": REFERENCE }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_schema_is_made_from_the_types() {
        let committed = include_str!("../../config/weft.schema.json");
        let made = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        assert!(
            committed == made,
            "config/weft.schema.json is stale: make it again with `weft schema > config/weft.schema.json`"
        );
    }
}
