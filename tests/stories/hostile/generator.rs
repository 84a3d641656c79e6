//! Schemas and payloads chosen to be costly: multiplying references, nested applicators, long
//! arrays, patterns, deep and wide payloads.

use fastrand::Rng;
use serde_json::{Map, Value, json};

pub(super) struct Generator(Rng);

/// Patterns that are large when compiled, or slow to match.
const PATTERNS: [&str; 12] = [
    "[\\w\\s]{1000}",
    "^(a|a)*$",
    "^(a+)+$",
    "[01]*1[01]{200}2",
    "(?:a?){300}b",
    "^\\p{L}{1,40}$",
    "((a{30}){30}){30}",
    "^[^x]{0,500}x",
    "(?=a)b",
    "(a)\\1",
    "[",
    "^[a-z0-9-]{1,64}$",
];

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// A schema, and a payload that is costly for it.
    pub(super) fn case(&mut self) -> (Value, Value) {
        if self.0.u8(0..8) == 0 {
            return self.doubling();
        }
        let definitions = self.0.usize(1..=8);
        let mut defs = Map::new();
        for nth in 0..definitions {
            defs.insert(format!("d{nth}"), self.schema(definitions, 0));
        }
        let mut schema = self.schema(definitions, 0);
        if !schema.is_object() {
            schema = json!({"properties": {"x": schema}});
        }
        schema["$defs"] = Value::Object(defs);
        (schema, self.payload())
    }

    /// A schema for which each level of the payload at least doubles the work.
    fn doubling(&mut self) -> (Value, Value) {
        let applicator = *self.pick(&["anyOf", "oneOf", "allOf"]);
        let inner = json!({"$ref": "#/$defs/n"});
        let arms: Vec<Value> = (0..self.0.usize(2..6))
            .map(|nth| match self.0.u8(0..3) {
                0 => json!({"properties": {"a": inner}, "required": [format!("r{nth}")]}),
                1 => json!({"additionalProperties": inner, "maxProperties": nth % 2}),
                _ => json!({"items": inner, "minItems": nth}),
            })
            .collect();
        let schema = json!({"$ref": "#/$defs/n", "$defs": {"n": {applicator: arms}}});
        let (levels, list) = (self.0.usize(20..120), self.0.bool());
        let payload = (0..levels)
            .fold(json!(1), |inner, _| if list { json!([inner]) } else { json!({"a": inner}) });
        (schema, json!({"a": payload}))
    }

    fn schema(&mut self, definitions: usize, depth: usize) -> Value {
        if depth > 4 || self.0.u8(..) < 40 {
            return self.leaf(definitions);
        }
        let below = depth + 1;
        match self.0.u8(0..14) {
            0..=2 => {
                let applicator = *self.pick(&["allOf", "anyOf", "oneOf"]);
                let arms =
                    if self.0.u8(..) < 30 { self.0.usize(20..40) } else { self.0.usize(1..4) };
                let one = self.schema(definitions, below);
                let list: Vec<Value> = if arms > 4 {
                    vec![one; arms]
                } else {
                    (0..arms).map(|_| self.schema(definitions, below)).collect()
                };
                json!({applicator: list})
            }
            3 | 4 => json!({"properties": {
                "a": self.schema(definitions, below), "b": self.schema(definitions, below),
            }}),
            5 | 6 => json!({"items": self.schema(definitions, below)}),
            7 => json!({"not": self.schema(definitions, below)}),
            8 => json!({
                "if": self.schema(definitions, below),
                "then": self.schema(definitions, below),
                "else": self.schema(definitions, below),
            }),
            9 => json!({
                "additionalProperties": self.schema(definitions, below),
                "patternProperties": {*self.pick(&PATTERNS): self.schema(definitions, below)},
            }),
            10 => {
                let applicator = *self.pick(&["unevaluatedProperties", "unevaluatedItems"]);
                let arms: Vec<Value> = (0..2).map(|_| self.schema(definitions, below)).collect();
                json!({"anyOf": arms, applicator: self.0.bool()})
            }
            11 => json!({
                "contains": self.schema(definitions, below), "minContains": self.0.u8(0..3),
            }),
            12 => json!({"propertyNames": self.schema(definitions, below)}),
            _ => json!({"dependentSchemas": {"a": self.schema(definitions, below)}}),
        }
    }

    fn leaf(&mut self, definitions: usize) -> Value {
        match self.0.u8(0..16) {
            0..=6 => json!({"$ref": format!("#/$defs/d{}", self.0.usize(0..definitions))}),
            7 => json!({"pattern": self.pick(&PATTERNS)}),
            8 => json!({"enum": (0..self.0.usize(1..800)).collect::<Vec<_>>()}),
            9 => json!({"uniqueItems": true}),
            10 => json!({"format": self.pick(&["email", "regex", "hostname", "uri", "date-time"])}),
            11 => json!({"multipleOf": 0.01, "maximum": 1e300}),
            12 => json!({"const": Self::wide(20)}),
            13 => json!({"type": self.pick(&["object", "array", "string", "number"])}),
            14 => json!(self.0.bool()),
            _ => json!({"minLength": 1, "maxProperties": 100_000}),
        }
    }

    fn payload(&mut self) -> Value {
        let deep = |levels: usize, list: bool| {
            (0..levels).fold(json!(1), |inner, _| {
                if list { json!([inner]) } else { json!({"a": inner, "b": 1}) }
            })
        };
        let inner = match self.0.u8(0..8) {
            0 => deep(self.0.usize(1..120), false),
            1 => deep(self.0.usize(1..120), true),
            2 => {
                let width = self.0.usize(1..20_000);
                Self::wide(width)
            }
            3 => Value::Array(vec![json!(1); self.0.usize(1..50_000)]),
            4 => {
                let most = self.0.u64(1..5000);
                Value::Array((0..most).map(|n| json!((1_u64 << 63) + n)).collect())
            }
            5 => json!("01a\\cA".repeat(self.0.usize(1..20_000))),
            6 => {
                let branch = |inner: Value| json!({"a": inner, "b": inner});
                (0..self.0.usize(1..12)).fold(json!([1, 2]), |inner, _| branch(inner))
            }
            _ => json!({}),
        };
        json!({"a": inner, "b": {"a": inner, "b": [inner]}})
    }

    fn wide(members: usize) -> Value {
        (0..members).map(|nth| (format!("m{nth}"), json!(nth))).collect::<Map<_, _>>().into()
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &'a [&'a T]) -> &'a &'a T {
        &list[self.0.usize(0..list.len())]
    }
}
