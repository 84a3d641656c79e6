//! Random operations on a store, with few different arguments, so that operations often affect each
//! other.

use gateway_events::event::Reason;
use proptest::prelude::*;

/// The number of gateways, event ids and replicas' names.
pub(crate) const GATEWAYS: usize = 3;
pub(crate) const IDS: u8 = 8;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Publish {
        items: Vec<Item>,
        key: Option<u8>,
    },
    /// Another program inserts these rows, and they are drained. Marked rows are rejected.
    Inbox(Vec<(Item, bool)>),
    /// Named by a number, or unnamed if it is 0.
    Open {
        gateway: usize,
        replica: u8,
    },
    /// Opens a connection in reliable mode.
    OpenInstance {
        gateway: usize,
        replica: u8,
        applied: bool,
        resume: From,
    },
    /// Whether all instances of a gateway must confirm.
    ConfirmBy {
        gateway: usize,
        all: bool,
    },
    Forget {
        gateway: usize,
        replica: u8,
    },
    Record(Vec<RecordStep>),
    Sweep,
    Expire,
    Trim(Limits),
    Redrive {
        gateway: Option<usize>,
        reason: Option<Reason>,
        id: Option<u8>,
        dry_run: bool,
    },
    RedriveOne {
        gateway: usize,
        sequence: u8,
    },
    Replay {
        gateway: usize,
        first: u8,
        last: Option<u8>,
        dry_run: bool,
    },
    Resend {
        id: u8,
        target: To,
        force: bool,
        dry_run: bool,
    },
    /// Starts a redrive as a job.
    StartRedrive {
        gateway: Option<usize>,
    },
    /// Works on one chunk of each running job.
    Work,
    /// Aborts the newest job.
    Abort,
    RetryRejected,
    /// The oldest rejected row is edited, so that it is valid or not.
    EditRejected {
        valid: bool,
        dry_run: bool,
    },
    Pause {
        gateway: usize,
        paused: bool,
        dry_run: bool,
    },
    Skip {
        gateway: usize,
        sequence: u8,
        dry_run: bool,
    },
    Purge {
        id: u8,
        dry_run: bool,
    },
    Enable {
        gateway: usize,
        enabled: bool,
    },
    Delete {
        gateway: usize,
    },
    Restart,
}

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) id: u8,
    /// Sometimes different content under the same id.
    pub(crate) content: u8,
    pub(crate) target: To,
    pub(crate) kind: u8,
    pub(crate) fit: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum To {
    These(Vec<usize>),
    Labelled,
    All,
    UnknownGateway,
}

/// Where a connection in reliable mode wants to start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    Server,
    Latest,
    Earliest,
    After { sequence: u8, foreign: bool, event: Option<u8> },
}

/// Retention limits: keep everything, few events, no instances, or nothing old.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limits {
    All,
    Few,
    HardFew,
    Young,
    HardYoung,
    Instances,
}

/// A record about a connection, counted from the newest one. Sequences are taken modulo the log's length.
#[derive(Clone, Debug)]
pub(crate) struct RecordStep {
    pub(crate) connection: usize,
    pub(crate) first: i64,
    pub(crate) length: i64,
    pub(crate) kind: RecordKind,
}

#[derive(Clone, Debug)]
pub(crate) enum RecordKind {
    Confirmed,
    Heartbeat,
    Applied,
    Failed,
    /// A report that is matched when it is recorded.
    Unmatched {
        applied: bool,
    },
    ConfirmedElsewhere,
    Skipped {
        advance: bool,
    },
    Acknowledged {
        applied: bool,
    },
    Retried,
    Rejected {
        advance: bool,
    },
    Filtered {
        advance: bool,
    },
    Covered,
    Closed {
        reason: Reason,
        sent: bool,
        give_up: bool,
    },
}

/// Replays, resends and jobs.
fn bulk() -> impl Strategy<Value = Step> {
    let replay = (0..GATEWAYS, 0_u8..12, prop::option::of(0_u8..12), prop::bool::weighted(0.2));
    let resend = (0..IDS, target(), any::<bool>(), prop::bool::weighted(0.2));
    prop_oneof![
        3 => replay.prop_map(|(gateway, first, last, dry_run)| Step::Replay {
            gateway, first, last, dry_run
        }),
        3 => resend.prop_map(|(id, target, force, dry_run)| Step::Resend {
            id, target, force, dry_run
        }),
        2 => prop::option::of(0..GATEWAYS).prop_map(|gateway| Step::StartRedrive { gateway }),
        4 => Just(Step::Work),
        1 => Just(Step::Abort),
    ]
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    prop::collection::vec(item(), 1..5)
}

fn target() -> impl Strategy<Value = To> {
    prop_oneof![
        6 => prop::collection::vec(0..GATEWAYS, 1..4).prop_map(To::These),
        2 => Just(To::All),
        1 => Just(To::Labelled),
        1 => Just(To::UnknownGateway),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    let content = prop_oneof![9 => Just(0_u8), 1 => Just(1)];
    (0..IDS, content, target(), 0_u8..5, prop::bool::weighted(0.9))
        .prop_map(|(id, content, target, kind, fit)| Item { id, content, target, kind, fit })
}

fn record_step() -> impl Strategy<Value = RecordStep> {
    let reason = prop::sample::select(vec![
        Reason::ConnectionLost,
        Reason::Shutdown,
        Reason::NodeLost,
        Reason::ConfirmationTimeout,
    ]);
    let kind = prop_oneof![
        6 => Just(RecordKind::Confirmed),
        1 => Just(RecordKind::Heartbeat),
        1 => Just(RecordKind::Applied),
        2 => Just(RecordKind::Failed),
        2 => any::<bool>().prop_map(|applied| RecordKind::Unmatched { applied }),
        1 => Just(RecordKind::ConfirmedElsewhere),
        2 => any::<bool>().prop_map(|advance| RecordKind::Skipped { advance }),
        6 => any::<bool>().prop_map(|applied| RecordKind::Acknowledged { applied }),
        1 => Just(RecordKind::Retried),
        2 => any::<bool>().prop_map(|advance| RecordKind::Rejected { advance }),
        1 => any::<bool>().prop_map(|advance| RecordKind::Filtered { advance }),
        1 => Just(RecordKind::Covered),
        3 => (reason, any::<bool>(), any::<bool>())
            .prop_map(|(reason, sent, give_up)| RecordKind::Closed { reason, sent, give_up }),
    ];
    (0_usize..6, 0_i64..12, 0_i64..6, kind).prop_map(|(connection, first, length, kind)| {
        RecordStep { connection, first, length, kind }
    })
}

fn from() -> impl Strategy<Value = From> {
    let event = prop::option::weighted(0.4, 0..IDS);
    prop_oneof![
        3 => Just(From::Server),
        1 => Just(From::Latest),
        1 => Just(From::Earliest),
        3 => (0_u8..12, prop::bool::weighted(0.2), event)
            .prop_map(|(sequence, foreign, event)| From::After { sequence, foreign, event }),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    prop::sample::select(vec![
        Limits::All,
        Limits::Few,
        Limits::HardFew,
        Limits::Young,
        Limits::HardYoung,
        Limits::Instances,
    ])
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reason = prop::option::of(Just(Reason::ApplyFailed));
    let redrive = (prop::option::of(0..GATEWAYS), reason, prop::option::of(0..IDS), any::<bool>());
    let step = prop_oneof![
        6 => (items(), prop::option::weighted(0.2, 0_u8..3))
            .prop_map(|(items, key)| Step::Publish { items, key }),
        1 => prop::collection::vec((item(), any::<bool>()), 1..4).prop_map(Step::Inbox),
        4 => (0..GATEWAYS, prop_oneof![3 => Just(0_u8), 1 => 1_u8..3])
            .prop_map(|(gateway, replica)| Step::Open { gateway, replica }),
        4 => (0..GATEWAYS, 0_u8..4, any::<bool>(), from()).prop_map(
            |(gateway, replica, applied, resume)| Step::OpenInstance {
                gateway, replica, applied, resume
            }
        ),
        1 => (0..GATEWAYS, any::<bool>())
            .prop_map(|(gateway, all)| Step::ConfirmBy { gateway, all }),
        1 => (0..GATEWAYS, 1_u8..4)
            .prop_map(|(gateway, replica)| Step::Forget { gateway, replica }),
        8 => prop::collection::vec(record_step(), 1..4).prop_map(Step::Record),
        2 => Just(Step::Sweep),
        2 => Just(Step::Expire),
        3 => limits().prop_map(Step::Trim),
        2 => redrive.prop_map(|(gateway, reason, id, dry_run)| Step::Redrive {
            gateway, reason, id, dry_run
        }),
        1 => (0..GATEWAYS, 0_u8..12)
            .prop_map(|(gateway, sequence)| Step::RedriveOne { gateway, sequence }),
        4 => bulk(),
        1 => Just(Step::RetryRejected),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(valid, dry_run)| Step::EditRejected { valid, dry_run }),
        2 => (0..GATEWAYS, prop::bool::weighted(0.6), prop::bool::weighted(0.1))
            .prop_map(|(gateway, paused, dry_run)| Step::Pause { gateway, paused, dry_run }),
        3 => (0..GATEWAYS, 0_u8..12, prop::bool::weighted(0.1))
            .prop_map(|(gateway, sequence, dry_run)| Step::Skip { gateway, sequence, dry_run }),
        1 => (0..IDS, prop::bool::weighted(0.1))
            .prop_map(|(id, dry_run)| Step::Purge { id, dry_run }),
        1 => (0..GATEWAYS, any::<bool>())
            .prop_map(|(gateway, enabled)| Step::Enable { gateway, enabled }),
        1 => prop::option::weighted(0.3, 0..GATEWAYS)
            .prop_map(|it| it.map_or(Step::Sweep, |gateway| Step::Delete { gateway })),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..30)
}
