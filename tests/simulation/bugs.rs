//! Deliberate bugs. Each is planted around a real part, so that no build of the product contains one:
//! in the store, in the transport's end of a link, or in a gateway's storage. The effect is that of a
//! mistake in the part itself.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use gateway_events::event::Sequence;
use gateway_events::store::{
    InstanceOutcome, OpenInstance, OpenedInstance, Published, Range, Record,
};

use crate::reference::store::fault_hook::FaultHook;

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// A deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Bug {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Bug {
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name on the command line.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

bugs! {
    /// An event is not sent, and the next one is linked to its predecessor.
    SkipRow = "skip_row",
    /// An event is sent with the content of its predecessor.
    StaleContent = "stale_content",
    /// Events of other types are left out of a connection that wants all types.
    WrongFilter = "wrong_filter",
    /// A client confirms events before it has stored its position.
    AcknowledgeEarly = "acknowledge_early",
    /// The service records a confirmation of one more event than was confirmed.
    ConfirmBeyond = "confirm_beyond",
    /// A receipt of plain mode is reported when the event was written.
    ReceiptAtWrite = "receipt_at_write",
    /// An instance is opened with the position of another one.
    ForeignCursor = "foreign_cursor",
    /// What is recorded beyond the first outcome of a group is dropped.
    FullQueue = "full_queue",
    /// Outcomes are lost when the store fails.
    LoseOutcome = "lose_outcome",
    /// A restored log keeps its epoch, so that its numbers are used again.
    ReuseNumber = "reuse_number",
    /// A publisher receives a sequence that another event has.
    RepeatNumber = "repeat_number",
    /// A gap is not announced: delivery continues after it.
    ForgetGap = "forget_gap",
    /// A gap counts as covered before the gateway has read its snapshot.
    ResumePastGap = "resume_past_gap",
    /// After a negative acknowledgement the event is not sent again.
    ForgetGoBack = "forget_go_back",
    /// A replaced connection is not closed, and goes on.
    KeepReplaced = "keep_replaced",
    /// After a crash, a client starts from an older position than it has stored.
    ApplyTwice = "apply_twice",
    /// A window of 0 is ignored.
    IgnoreCredit = "ignore_credit",
    /// A sign of progress is ignored.
    IgnoreProgress = "ignore_progress",
    /// One instance is enough although all must confirm.
    AnyForAll = "any_for_all",
}

/// The bugs of the store.
pub(crate) struct BugHook {
    bug: Bug,
    /// Whether the bug has had its effect, if it has one only once.
    is_done: AtomicBool,
    last: AtomicI64,
}

impl BugHook {
    pub(crate) fn new(bug: Bug) -> Self {
        Self { bug, is_done: AtomicBool::new(false), last: AtomicI64::new(0) }
    }
}

impl FaultHook for BugHook {
    fn record(&self, mut records: Vec<Record>) -> Vec<Record> {
        match self.bug {
            Bug::FullQueue => records.truncate(1),
            Bug::ConfirmBeyond => {
                for record in &mut records {
                    if let Record::Instance {
                        outcome: InstanceOutcome::Acknowledged { range: Range { last, .. }, .. },
                        ..
                    } = record
                    {
                        *last = last.next();
                    }
                }
            }
            Bug::AnyForAll => {
                // As if the other instances had confirmed the same.
                let mut more = Vec::new();
                for record in &records {
                    if let Record::Instance { instance, .. } = record
                        && let Some(other) = sibling(instance)
                    {
                        let mut record = record.clone();
                        if let Record::Instance { instance, .. } = &mut record {
                            *instance = other.into();
                        }
                        more.push(record);
                    }
                }
                records.extend(more);
            }
            _ => {}
        }
        records
    }

    fn hides_failures(&self) -> bool {
        self.bug == Bug::LoseOutcome
    }

    fn opening(&self, opening: &mut OpenInstance) {
        if self.bug == Bug::ForeignCursor
            && let Some(other) = sibling(&opening.connection.instance)
        {
            opening.connection.instance = other;
        }
    }

    fn opened(&self, opened: &mut OpenedInstance) {
        match self.bug {
            Bug::KeepReplaced => opened.replaces.clear(),
            Bug::ForgetGap => {
                if let Some(gap) = opened.gap.take() {
                    opened.opened.position = gap.resume_at;
                }
            }
            _ => {}
        }
    }

    fn appended(&self, published: &mut Published) {
        let Published::Done(answers) = published else { return };
        if self.bug != Bug::RepeatNumber {
            return;
        }
        for delivery in answers.iter_mut().flatten().flat_map(|it| &mut it.deliveries) {
            let last = self.last.swap(delivery.sequence.0, Ordering::Relaxed);
            if last > 3 && !self.is_done.swap(true, Ordering::Relaxed) {
                delivery.sequence = Sequence(last);
            }
        }
    }
}

/// The name of the neighbouring instance.
fn sibling(name: &str) -> Option<String> {
    let last = name.chars().last()?;
    let other = if last == '0' { '1' } else { '0' };
    Some(format!("{}{other}", &name[..name.len() - last.len_utf8()]))
}
