//! The JSON Schema of the routing file, made from its types: editors complete and check with it.

use schemars::{generate::SchemaSettings, transform::RestrictFormats};
use serde_json::Value;

use super::Config;

/// The schema, as it is committed in `config/weft.schema.json`.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RestrictFormats::default());
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<Config>()
        .to_value();
    without_local_defaults(&mut schema);
    if let Value::Object(schema) = &mut schema {
        schema.insert("title".into(), "weft's routing file".into());
    }
    schema
}

/// Takes out the defaults that this machine's environment decides, and those of whole mappings, which only repeat what
/// their keys say.
fn without_local_defaults(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let local = map
                .get("description")
                .and_then(Value::as_str)
                .is_some_and(|words| words.contains('$'));
            if local || map.get("default").is_some_and(Value::is_object) {
                map.remove("default");
            }
            map.values_mut().for_each(without_local_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(without_local_defaults),
        _ => {}
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
