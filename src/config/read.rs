//! A tree as the values that serde makes of it. Every error knows the node it is about.
//!
//! What was dropped after an earlier error is passed over, so that a file is read again and again until all that is
//! wrong with it has been found.

use std::{cell::RefCell, collections::HashSet};

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use super::{
    cause::{Cause, Error},
    tree::{Entry, Id, Kind, Meaning, Scalar, Tree},
};

/// A reading of a tree.
pub struct Reading<'t> {
    pub tree: &'t Tree,
    /// Values that are passed over, with their keys.
    pub dropped: &'t HashSet<Id>,
    /// Unquoted words that other YAML readers take for booleans, where a text is meant.
    pub doubtful: RefCell<Vec<Id>>,
}

/// One node of a reading.
#[derive(Clone, Copy)]
pub struct Value<'r, 't> {
    pub reading: &'r Reading<'t>,
    pub id: Id,
}

impl<'r, 't> Value<'r, 't> {
    fn kind(self) -> &'t Kind {
        &self.reading.tree.node(self.id).kind
    }

    fn child(self, id: Id) -> Self {
        Value { id, ..self }
    }

    fn kept(self, id: &Id) -> bool {
        !self.reading.dropped.contains(id)
    }

    fn is_nothing(self) -> bool {
        matches!(self.kind(), Kind::Scalar(scalar) if scalar.meaning() == Meaning::Nothing)
    }

    fn mistaken(self, expected: &dyn Expected) -> Error {
        let found = match self.kind() {
            Kind::List(_) => Unexpected::Seq,
            Kind::Map(_) => Unexpected::Map,
            Kind::Scalar(scalar) => match scalar.meaning() {
                Meaning::Nothing => Unexpected::Unit,
                Meaning::Bool(value) => Unexpected::Bool(value),
                Meaning::Number(number) => Unexpected::Unsigned(number),
                Meaning::Text(text) => Unexpected::Str(text),
            },
        };
        Error::invalid_type(found, expected)
    }

    /// The text of a scalar where a text is meant: numbers count as written, booleans and nothing do not.
    fn as_text(self, scalar: &'t Scalar, expected: &dyn Expected) -> Result<&'t str, Error> {
        match scalar.meaning() {
            Meaning::Nothing | Meaning::Bool(_) => Err(self.mistaken(expected)),
            Meaning::Number(_) => Ok(&scalar.text),
            Meaning::Text(text) => {
                let word = text.to_ascii_lowercase();
                if scalar.plain && matches!(word.as_str(), "yes" | "no" | "on" | "off" | "y" | "n")
                {
                    self.reading.doubtful.borrow_mut().push(self.id);
                }
                Ok(text)
            }
        }
    }

    fn text<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.kind() {
            Kind::Scalar(scalar) => {
                let text = self.as_text(scalar, &visitor)?;
                visitor.visit_str(text)
            }
            _ => Err(self.mistaken(&visitor)),
        }
    }

    fn number<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        let Kind::Scalar(scalar) = self.kind() else {
            return Err(self.mistaken(&visitor));
        };
        // JSON knows no keys but texts, and a flow mapping takes `${NAME}` only in quotes.
        let quoted_number = self.reading.tree.node(self.id).is_key || scalar.from.is_some();
        match scalar.meaning() {
            Meaning::Number(number) => visitor.visit_u64(number),
            Meaning::Text(text) if quoted_number => match text.parse() {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => Err(self.mistaken(&visitor)),
            },
            _ => Err(self.mistaken(&visitor)),
        }
    }

    fn list<V: Visitor<'t>>(self, items: &'t [Id], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items {
            list: self,
            items: items.iter(),
        })
    }

    fn map<V: Visitor<'t>>(self, entries: &'t [Entry], visitor: V) -> Result<V::Value, Error> {
        let mut last = None;
        let made = visitor.visit_map(Entries {
            map: self,
            entries: entries.iter(),
            value: None,
            last: &mut last,
        });
        // What a visitor says of its own accord is about the entry that it saw last; only a missing key is about the
        // mapping.
        made.map_err(|error| match (last, error.cause()) {
            (Some(entry), Cause::Words(_) | Cause::UnknownKey { .. }) => error.about(entry, true),
            _ => error,
        })
    }
}

macro_rules! forward {
    ($to:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
            self.$to(visitor).map_err(|error| error.about(self.id, false))
        })*
    };
}

impl<'t> Deserializer<'t> for Value<'_, 't> {
    type Error = Error;

    forward!(text: deserialize_str deserialize_string deserialize_char deserialize_identifier
        deserialize_bytes deserialize_byte_buf);
    forward!(number: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        let made = match self.kind() {
            Kind::List(items) => self.list(items, visitor),
            Kind::Map(entries) => self.map(entries, visitor),
            Kind::Scalar(scalar) => match scalar.meaning() {
                Meaning::Nothing => visitor.visit_unit(),
                Meaning::Bool(value) => visitor.visit_bool(value),
                Meaning::Number(number) => visitor.visit_u64(number),
                Meaning::Text(_) => {
                    let text = self.as_text(scalar, &visitor)?;
                    visitor.visit_str(text)
                }
            },
        };
        made.map_err(|error| error.about(self.id, false))
    }

    /// A mapping that may be left out: a key with nothing after it is neither said nor left out.
    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_nothing() {
            let words = "nothing is said here; write `{}` for the defaults, or leave the key out";
            return Err(Error::custom(words).about(self.id, false));
        }
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        let made = match self.kind() {
            Kind::List(items) => self.list(items, visitor),
            _ if self.is_nothing() => self.list(&[], visitor),
            _ => Err(self.mistaken(&visitor)),
        };
        made.map_err(|error| error.about(self.id, false))
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Error> {
        let made = match self.kind() {
            Kind::Map(entries) => self.map(entries, visitor),
            _ if self.is_nothing() => self.map(&[], visitor),
            _ => Err(self.mistaken(&visitor)),
        };
        made.map_err(|error| error.about(self.id, false))
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        _name: &'static str,
        _keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant = match self.kind() {
            Kind::Scalar(_) => Variant {
                word: self,
                value: None,
            },
            Kind::Map(entries) => {
                let kept: Vec<_> = entries.iter().filter(|e| self.kept(&e.value)).collect();
                let [entry] = kept.as_slice() else {
                    return Err(Error::new(Cause::OneKey(kept.len())).about(self.id, false));
                };
                Variant {
                    word: self.child(entry.key),
                    value: Some(self.child(entry.value)),
                }
            }
            Kind::List(_) => {
                let expected = format!("one of {}", words.join(", "));
                let found = "a list".to_owned();
                return Err(Error::new(Cause::Type(expected, found)).about(self.id, false));
            }
        };
        let value = variant.value.map_or(self.id, |value| value.id);
        let on_key = variant.value.is_some();
        visitor
            .visit_enum(variant)
            .map_err(|error| error.about(value, on_key))
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor
            .visit_newtype_struct(self)
            .map_err(|error| error.about(self.id, false))
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'t>>
        bool f32 f64 unit unit_struct tuple tuple_struct ignored_any
    }
}

struct Items<'r, 't> {
    list: Value<'r, 't>,
    items: std::slice::Iter<'t, Id>,
}

impl<'t> SeqAccess<'t> for Items<'_, 't> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'t>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let list = self.list;
        let Some(id) = self.items.find(|id| list.kept(id)) else {
            return Ok(None);
        };
        seed.deserialize(list.child(*id))
            .map(Some)
            .map_err(|error| error.about(*id, false))
    }
}

struct Entries<'a, 'r, 't> {
    map: Value<'r, 't>,
    entries: std::slice::Iter<'t, Entry>,
    value: Option<Id>,
    last: &'a mut Option<Id>,
}

impl<'t> MapAccess<'t> for Entries<'_, '_, 't> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'t>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let map = self.map;
        let Some(entry) = self.entries.find(|entry| map.kept(&entry.value)) else {
            return Ok(None);
        };
        self.value = Some(entry.value);
        *self.last = Some(entry.value);
        // The key's own deserializer says that the error is about the key; here that means its value's entry.
        let key = seed.deserialize(map.child(entry.key));
        key.map(Some)
            .map_err(|error| error.about_nothing().about(entry.value, true))
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some(id) = self.value.take() else {
            return Err(Error::custom("a value without a key"));
        };
        seed.deserialize(self.map.child(id))
            .map_err(|error| error.about(id, false))
    }
}

/// One word of an enum, or a mapping of one key to its content.
struct Variant<'r, 't> {
    word: Value<'r, 't>,
    value: Option<Value<'r, 't>>,
}

impl<'r, 't> EnumAccess<'t> for Variant<'r, 't> {
    type Error = Error;
    type Variant = Content<'r, 't>;

    fn variant_seed<S: DeserializeSeed<'t>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Content<'r, 't>), Error> {
        let word = seed.deserialize(self.word).map_err(Error::about_nothing)?;
        let content = Content { value: self.value };
        Ok((word, content))
    }
}

/// What stands beside the word of an enum.
struct Content<'r, 't> {
    value: Option<Value<'r, 't>>,
}

impl<'t> VariantAccess<'t> for Content<'_, 't> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.value {
            None => Ok(()),
            Some(_) => Err(Error::custom(
                "this word stands alone, without a `:` after it",
            )),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<S::Value, Error> {
        match self.value {
            Some(value) => seed
                .deserialize(value)
                .map_err(|error| error.about(value.id, false)),
            None => Err(Error::custom("this word needs a `:` and a value after it")),
        }
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no such value can be written"))
    }

    fn struct_variant<V: Visitor<'t>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        Err(Error::custom("no such value can be written"))
    }
}
