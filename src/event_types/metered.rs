//! A payload with a budget for its evaluation. The evaluator reads instances through a trait. This
//! implementation of the trait takes units off a budget at each step, so that the evaluator can be
//! stopped, for which it has no other means. When the budget is used up, the step unwinds to
//! [`within`]. It does not panic: no hook runs and nothing is logged. Unwinding leaves no
//! inconsistent state, because the state of an evaluation belongs to its call and a compiled schema
//! is never changed.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use jsonschema::JsonType;
use jsonschema::json::{self, Array, Json, NodeIdentity, Object, SerdeJson};
use serde_json::{Map, Value};

use super::complexity::Prices;

/// The representation of instances that schemas are compiled for.
pub(super) struct Metered;

/// Integers beyond this share hashes with others, so it is costly to distinguish them.
const EXACT: u64 = 1 << 53;

/// The cost of comparing or hashing a byte, in 256ths of a unit.
const READ: u64 = 4;

/// The rest of a payload's budget.
pub(super) struct Meter {
    left: Cell<u64>,
    prices: Prices,
}

/// Why an evaluation has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The budget was used up.
    OverBudget,
    /// The evaluator panicked. The panic hook has logged it.
    Panicked,
}

/// Runs the evaluation of a payload with a budget in units.
pub(super) fn within<T>(
    units: u64,
    prices: Prices,
    payload: &Value,
    work: impl FnOnce(Node<'_>) -> T,
) -> Result<T, Stopped> {
    let meter = Meter { left: Cell::new(units), prices };
    let root = Node { value: Inner::Value(payload), meter: Some(&meter) };
    catch_unwind(AssertUnwindSafe(|| work(root)))
        .map_err(|why| why.downcast_ref().copied().unwrap_or(Stopped::Panicked))
}

impl Meter {
    fn spend(&self, units: u64) {
        match self.left.get().checked_sub(units) {
            Some(left) => self.left.set(left),
            None => resume_unwind(Box::new(Stopped::OverBudget)),
        }
    }

    fn spend_for(&self, bytes: usize, price: u64) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.spend(1 + bytes.saturating_mul(price) / 256);
    }

    /// Takes the cost of reading everything inside a value.
    fn spend_deep(&self, value: &Value) {
        match value {
            Value::String(text) => self.spend_for(text.len(), READ),
            Value::Array(items) => items.iter().for_each(|item| self.spend_deep(item)),
            Value::Object(members) => members.iter().for_each(|(name, member)| {
                self.spend_for(name.len(), READ);
                self.spend_deep(member);
            }),
            _ => {}
        }
        self.spend(4);
    }

    /// Takes the cost of a comparison, which ends where the two differ in kind or number.
    fn spend_compared(&self, value: &Value, expected: &Value) {
        self.spend(1);
        match (value, expected) {
            (Value::String(one), Value::String(other)) if one.len() == other.len() => {
                self.spend_for(one.len(), READ);
            }
            (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
                let pairs = items.iter().zip(others);
                pairs.for_each(|(one, other)| self.spend_compared(one, other));
            }
            (Value::Object(members), Value::Object(others)) if members.len() == others.len() => {
                for (name, member) in members {
                    self.spend_for(name.len(), READ);
                    if let Some(other) = others.get(name) {
                        self.spend_compared(member, other);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A value of a payload, or the name of a member.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    value: Inner<'a>,
    /// `None` for a string that the evaluator created.
    meter: Option<&'a Meter>,
}

#[derive(Clone, Copy)]
enum Inner<'a> {
    Value(&'a Value),
    Name(&'a str),
}

impl<'a> Node<'a> {
    fn spend(&self, units: u64) {
        if let Some(meter) = self.meter {
            meter.spend(units);
        }
    }

    fn child(&self, value: &'a Value) -> Self {
        if let Some(meter) = self.meter {
            meter.spend(meter.prices.child);
        }
        Self { value: Inner::Value(value), meter: self.meter }
    }

    /// The value; costs one unit.
    fn value(&self) -> Option<&'a Value> {
        self.spend(1);
        match self.value {
            Inner::Value(value) => Some(value),
            Inner::Name(_) => None,
        }
    }

    fn text(&self) -> Option<&'a str> {
        match (self.value, self.meter) {
            (Inner::Value(Value::String(text)), Some(meter)) => {
                meter.spend_for(text.len(), meter.prices.text);
                Some(text)
            }
            (Inner::Value(Value::String(text)), None) => Some(text),
            (Inner::Name(name), Some(meter)) => {
                meter.spend_for(name.len(), meter.prices.text);
                Some(name)
            }
            (Inner::Name(name), None) => Some(name),
            (Inner::Value(_), _) => None,
        }
    }
}

impl Json for Metered {
    type Node<'a> = Node<'a>;
    type PreparedKey = String;
    type StringBuffer = ();

    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>((): &mut (), string: &str, f: impl FnOnce(Node<'_>) -> T) -> T {
        f(Node { value: Inner::Name(string), meter: None })
    }
}

impl<'a> json::Node<'a, Metered> for Node<'a> {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = &'a serde_json::Number;

    fn as_object(&self) -> Option<Members<'a>> {
        self.value()?.as_object().map(|members| Members { node: *self, members })
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        self.value()?.as_array().map(|items| Elements { node: *self, items })
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        self.text().map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a serde_json::Number> {
        self.value()?.as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        self.value()?.as_bool()
    }

    fn is_null(&self) -> bool {
        self.value().is_some_and(Value::is_null)
    }

    fn json_type(&self) -> JsonType {
        match self.value() {
            None | Some(Value::String(_)) => JsonType::String,
            Some(Value::Null) => JsonType::Null,
            Some(Value::Bool(_)) => JsonType::Boolean,
            Some(Value::Number(_)) => JsonType::Number,
            Some(Value::Array(_)) => JsonType::Array,
            Some(Value::Object(_)) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        match self.value {
            Inner::Value(value) => {
                if let Some(meter) = self.meter {
                    meter.spend_compared(value, expected);
                }
                json::Node::<'_, SerdeJson>::equals_value(&value, expected)
            }
            Inner::Name(_) => self.text() == expected.as_str(),
        }
    }

    /// Called for each reported error, which is costly to build.
    fn to_value(&self) -> Cow<'a, Value> {
        self.spend(160);
        match self.value {
            Inner::Value(value) => Cow::Borrowed(value),
            Inner::Name(name) => Cow::Owned(Value::String(name.to_owned())),
        }
    }

    fn identity(&self) -> Option<NodeIdentity> {
        self.spend(1);
        Some(NodeIdentity::new(match self.value {
            Inner::Value(value) => std::ptr::from_ref(value) as usize,
            Inner::Name(name) => name.as_ptr() as usize,
        }))
    }
}

/// The members of an object.
#[derive(Clone, Copy)]
pub(super) struct Members<'a> {
    node: Node<'a>,
    members: &'a Map<String, Value>,
}

impl<'a> Object<'a, Metered> for Members<'a> {
    type Node = Node<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.members.len()
    }

    fn get(&self, key: &String) -> Option<Node<'a>> {
        self.node.spend(1);
        self.members.get(key).map(|value| self.node.child(value))
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter { node: self.node, members: self.members.iter() }
    }

    fn try_for_each_name_node<B>(
        &self,
        (): &mut (),
        mut f: impl FnMut(Node<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        self.members().try_for_each(|(name, node)| f(Node { value: Inner::Name(name), ..node }))
    }
}

/// An iterator over members, with their names.
pub(super) struct MembersIter<'a> {
    node: Node<'a>,
    members: serde_json::map::Iter<'a>,
}

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, Node<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.members.next()?;
        if let Some(meter) = self.node.meter {
            meter.spend_for(name.len(), meter.prices.name);
        }
        Some((name, self.node.child(value)))
    }
}

/// The elements of an array.
#[derive(Clone, Copy)]
pub(super) struct Elements<'a> {
    node: Node<'a>,
    items: &'a [Value],
}

impl<'a> Array<'a, Metered> for Elements<'a> {
    type Node = Node<'a>;
    type ElementsIter = ElementsIter<'a>;

    fn len(&self) -> usize {
        self.items.len()
    }

    fn elements(&self) -> ElementsIter<'a> {
        ElementsIter { node: self.node, items: self.items.iter() }
    }

    fn is_unique(&self) -> bool {
        if let Some(meter) = self.node.meter {
            for item in self.items {
                meter.spend(16);
                meter.spend_deep(item);
                meter.spend(collisions(item));
            }
        }
        json::unique::is_unique(self.items)
    }
}

/// An iterator over elements.
pub(super) struct ElementsIter<'a> {
    node: Node<'a>,
    items: std::slice::Iter<'a, Value>,
}

impl<'a> Iterator for ElementsIter<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.items.next().map(|value| self.node.child(value))
    }
}

/// The cost of distinguishing an element from others with the same hash. Integers are hashed as
/// floats, of which one stands for up to 2048 of the largest integers.
fn collisions(value: &Value) -> u64 {
    match value {
        Value::Number(number) => {
            let is_exact = number.as_u64().is_none_or(|number| number < EXACT)
                && number.as_i64().is_none_or(|number| number.unsigned_abs() < EXACT);
            if is_exact { 0 } else { 1024 }
        }
        Value::Array(items) => items.iter().map(collisions).fold(0, u64::saturating_add),
        Value::Object(members) => members.values().map(collisions).fold(0, u64::saturating_add),
        _ => 0,
    }
}
