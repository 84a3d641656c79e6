//! Limits the cost of a schema before it is compiled. A JSON Schema is a program: `$ref` in two
//! arms of an `anyOf` doubles the work with each level of the payload, and thirteen levels of
//! `allOf` with thirty schemas each are 30¹³ checks of one value. Two limits bound the work, one
//! here and one in [`super::metered`]:
//!
//! 1. The number of keywords that a single value is checked against is at most [`MAX_KEYWORDS`].
//!    In-place applicators (`allOf`, `$ref`, `if`, …) are followed and must not form a cycle, so that
//!    this number is known.
//! 2. While a payload is checked, each step from a value to one of its members or elements costs as
//!    many units as keywords may apply there ([`Prices::child`]), and a payload has a fixed number
//!    of units.
//!
//! Together they bound the work of the evaluator, whatever its implementation.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::patterns::{Patterns, percent_decoded};

/// The maximum nesting, of the document and through references.
const MAX_DEPTH: usize = 32;

/// The maximum number of keywords that one value is checked against.
const MAX_KEYWORDS: u64 = 2000;

/// Keywords whose schemas apply to the value itself.
const IN_PLACE: [&str; 9] =
    ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies"];

/// Keywords with several schemas, of which at most one applies to each child of a value.
const ONE_PER_CHILD: [&str; 2] = ["properties", "prefixItems"];

/// Keywords whose schemas may all apply to a child of a value, or to its name.
const EACH_PER_CHILD: [&str; 8] = [
    "patternProperties",
    "additionalProperties",
    "items",
    "additionalItems",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Keywords that contain schemas by name.
const BY_NAME: [&str; 4] = ["properties", "patternProperties", "dependentSchemas", "dependencies"];

/// The cost of the evaluator's operations on a payload, in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prices {
    /// Each step from a value to one of its children.
    pub(super) child: u64,
    /// Each byte of a string, in 256ths of a unit.
    pub(super) text: u64,
    /// Each byte of a member's name, in 256ths of a unit.
    pub(super) name: u64,
    /// The number of patterns, which determines the memory of their caches.
    pub(super) patterns: usize,
}

/// Measures a schema; an error says what to change.
pub(super) fn measure(schema: &Value) -> Result<Prices, String> {
    let mut survey = Survey { anchors: HashMap::new(), schemas: HashMap::new() };
    survey.document(schema, 0)?;
    let (mut patterns, mut has_formats) = (Patterns::default(), false);
    survey.collect(schema, &mut patterns, &mut has_formats)?;
    let addresses: Vec<Address> = survey.schemas.keys().copied().collect();
    let (mut here, mut below) = (HashMap::new(), HashMap::new());
    let mut child = 1;
    for address in &addresses {
        survey.here(*address, 1, &mut here)?;
    }
    for address in &addresses {
        child = child.max(survey.below(*address, &here, &mut below));
    }
    // Reading a byte costs a 64th of a unit, and checking its format a unit.
    let read = if has_formats { 256 } else { 4 };
    Ok(Prices {
        child,
        text: read + patterns.costliest(),
        name: read + patterns.all(),
        patterns: patterns.count(),
    })
}

/// The address of a schema in memory, which identifies it.
type Address = usize;

/// A schema, as the schemas that it applies.
#[derive(Default)]
struct Schema {
    keywords: u64,
    in_place: Vec<Address>,
    /// Lists of schemas, of which at most one applies to a child.
    one_per_child: Vec<Vec<Address>>,
    each_per_child: Vec<Address>,
}

/// The number of keywords that a schema applies to one value, including those applied in place.
#[derive(Clone, Copy)]
struct Applied {
    keywords: u64,
    levels: usize,
}

struct Survey<'a> {
    anchors: HashMap<&'a str, &'a Value>,
    schemas: HashMap<Address, Schema>,
}

impl<'a> Survey<'a> {
    /// Checks the constraints on the whole document, and finds its anchors.
    fn document(&mut self, value: &'a Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("is nested deeper than {MAX_DEPTH} levels; flatten it"));
        }
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    if matches!(name.as_str(), "$anchor" | "$dynamicAnchor")
                        && let Some(anchor) = member.as_str()
                    {
                        self.anchors.entry(anchor).or_insert(value);
                    }
                    self.document(member, depth + 1)?;
                }
                Ok(())
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.document(item, depth + 1)),
            _ => Ok(()),
        }
    }

    /// Collects all reachable schemas, with their patterns and formats.
    fn collect(
        &mut self,
        root: &'a Value,
        patterns: &mut Patterns,
        has_formats: &mut bool,
    ) -> Result<(), String> {
        let mut waiting = vec![root];
        while let Some(value) = waiting.pop() {
            if self.schemas.contains_key(&address(value)) {
                continue;
            }
            let mut schema = Schema { keywords: 1, ..Schema::default() };
            for (keyword, argument) in value.as_object().into_iter().flatten() {
                let keyword = keyword.as_str();
                schema.keywords += 1;
                match keyword {
                    "$id" | "$schema" if !std::ptr::eq(value, root) => {
                        return Err(format!(
                            "{keyword} may stand at the top only; remove it from the schemas inside"
                        ));
                    }
                    "$dynamicRef" | "$recursiveRef" => {
                        return Err(format!("{keyword} is not supported; use $ref"));
                    }
                    "pattern" => patterns.add(argument.as_str().unwrap_or_default())?,
                    "patternProperties" => {
                        argument
                            .as_object()
                            .into_iter()
                            .flat_map(Map::keys)
                            .try_for_each(|pattern| patterns.add(pattern))?;
                    }
                    "format" => *has_formats = true,
                    _ => {}
                }
                let held = match keyword {
                    "$ref" => vec![self.target(root, argument)?],
                    _ => held(keyword, argument),
                };
                let addresses = held.iter().map(|schema| address(schema));
                if keyword == "$ref" || IN_PLACE.contains(&keyword) {
                    schema.in_place.extend(addresses);
                } else if ONE_PER_CHILD.contains(&keyword) {
                    schema.one_per_child.push(addresses.collect());
                } else {
                    schema.each_per_child.extend(addresses);
                }
                waiting.extend(held);
            }
            self.schemas.insert(address(value), schema);
        }
        Ok(())
    }

    /// The schema that a `$ref` refers to: `#`, `#/a/json/pointer` or `#anchor`.
    fn target(&self, root: &'a Value, reference: &'a Value) -> Result<&'a Value, String> {
        let fragment = reference.as_str().and_then(|text| text.strip_prefix('#')).ok_or_else(|| {
            format!(
                "$ref may only point into the schema itself (`#/$defs/…`), not to {reference}; copy the other schema into $defs"
            )
        })?;
        let found = percent_decoded(fragment).and_then(|fragment| {
            if fragment.is_empty() || fragment.starts_with('/') {
                root.pointer(&fragment)
            } else {
                self.anchors.get(fragment.as_str()).copied()
            }
        });
        found.ok_or_else(|| format!("$ref {reference} points to nothing in the schema"))
    }

    /// Counts the keywords that a schema applies to a value. `None` in `known` marks a schema that
    /// is being counted.
    fn here(
        &self,
        schema: Address,
        level: usize,
        known: &mut HashMap<Address, Option<Applied>>,
    ) -> Result<Applied, String> {
        match known.get(&schema) {
            Some(Some(applied)) => return Ok(*applied),
            Some(None) => {
                return Err("refers to itself without going into a member or an element, so it can't be evaluated; remove the cycle of $ref".to_owned());
            }
            None => {}
        }
        known.insert(schema, None);
        let mut applied = Applied { keywords: self.schemas[&schema].keywords, levels: 1 };
        if level <= MAX_DEPTH {
            for inner in &self.schemas[&schema].in_place {
                let inner = self.here(*inner, level + 1, known)?;
                applied.keywords = applied.keywords.saturating_add(inner.keywords);
                applied.levels = applied.levels.max(inner.levels + 1);
            }
        }
        if level > MAX_DEPTH || applied.levels > MAX_DEPTH {
            return Err(format!(
                "applies more than {MAX_DEPTH} levels of schemas to one value; shorten the chain of $ref"
            ));
        }
        if applied.keywords > MAX_KEYWORDS {
            return Err(format!(
                "applies more than {MAX_KEYWORDS} keywords to one value ($ref, allOf, anyOf, oneOf, if and the like are counted with all that they apply); simplify it"
            ));
        }
        known.insert(schema, Some(applied));
        Ok(applied)
    }

    /// The largest number of keywords that a schema applies to one child of a value.
    fn below(
        &self,
        address: Address,
        here: &HashMap<Address, Option<Applied>>,
        known: &mut HashMap<Address, u64>,
    ) -> u64 {
        if let Some(keywords) = known.get(&address) {
            return *keywords;
        }
        let schema = &self.schemas[&address];
        let keywords =
            |schema: &Address| here.get(schema).copied().flatten().map_or(1, |it| it.keywords);
        let one = schema.one_per_child.iter().filter_map(|list| list.iter().map(keywords).max());
        let each = schema.each_per_child.iter().map(keywords);
        let own = one.chain(each).fold(0, u64::saturating_add);
        let below = schema
            .in_place
            .iter()
            .map(|inner| self.below(*inner, here, known))
            .fold(own, u64::saturating_add);
        known.insert(address, below);
        below
    }
}

fn address(schema: &Value) -> Address {
    std::ptr::from_ref(schema) as Address
}

/// The schemas in a keyword's value: one schema, a list, or an object.
fn held<'a>(keyword: &str, argument: &'a Value) -> Vec<&'a Value> {
    let applies = [&IN_PLACE[..], &ONE_PER_CHILD[..], &EACH_PER_CHILD[..]];
    if !applies.iter().any(|keywords| keywords.contains(&keyword)) {
        return Vec::new();
    }
    match argument {
        Value::Object(named) if BY_NAME.contains(&keyword) => named.values().collect(),
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}
