//! JSON objects that mean what they seem to. serde also takes a list for a
//! struct, member by member; and of a member that stands there twice, readers
//! of JSON differ in which one counts. Both are refused here, for all who ask. What is passed on
//! untouched (payloads, schemas) is not looked into.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::store::{LabelChange, Labels};

/// A `T` that was written as an object.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// Members by name, each of which stands there once.
pub struct Once<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Once<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Members<V> {
            type Value = BTreeMap<String, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut once = BTreeMap::new();
                while let Some((name, value)) = members.next_entry::<String, V>()? {
                    if once.contains_key(&name) {
                        let shown: String = name.chars().take(64).collect();
                        return Err(A::Error::custom(format_args!("duplicate field `{shown}`")));
                    }
                    once.insert(name, value);
                }
                Ok(once)
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// Labels, each of which stands there once.
pub fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    Once::deserialize(deserializer).map(|Once(labels)| labels)
}

/// The same where they may be left out.
pub fn some_labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Labels>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map(|Once(labels)| labels))
}

/// Labels in a merge patch: `null` for one removes it, `null` for all removes all.
pub fn label_change<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<LabelChange>, D::Error> {
    Ok(Some(match Option::deserialize(deserializer)? {
        None => LabelChange::Clear,
        Some(Once(changes)) => LabelChange::Merge(changes),
    }))
}

/// A member of a merge patch that can be set and not removed.
pub fn not_null<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
