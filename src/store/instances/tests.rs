//! Where connections in reliable mode start.

use proptest::prelude::*;

use super::*;

fn log() -> impl Strategy<Value = (LogState, Sequence)> {
    (0_i64..40).prop_flat_map(|head| {
        (0..=head, 0..=head).prop_map(move |(floor, own)| {
            let (head, floor) = (Sequence(head), Sequence(floor));
            (LogState { epoch: Epoch::new(), head, floor }, Sequence(own))
        })
    })
}

proptest! {
    #[test]
    fn nothing_that_the_log_has_is_skipped_without_a_gap((log, own) in log()) {
        match start(log, &ResumeFrom::Server, own, true) {
            Start::At(position) => prop_assert!(position == own && position >= log.floor),
            Start::Gap(gap) => {
                prop_assert!(own < log.floor);
                prop_assert_eq!((gap.reason, gap.from), (GapReason::Retention, own.next()));
                prop_assert_eq!((gap.to, gap.resume_at), (log.floor, log.floor));
            }
        }
        let received = ResumeFrom::Received { epoch: log.epoch, sequence: log.head };
        prop_assert_eq!(start(log, &received, own, true), start(log, &ResumeFrom::Server, own, true));
        prop_assert_eq!(start(log, &ResumeFrom::Latest, own, true), Start::At(log.head));
        prop_assert_eq!(start(log, &ResumeFrom::Earliest, own, true), Start::At(log.floor));
    }

    #[test]
    fn a_position_is_served_only_if_it_is_of_this_log(
        (log, own) in log(), sequence in 0_i64..50, is_foreign in any::<bool>(), is_same in any::<bool>()
    ) {
        let epoch = if is_foreign { Epoch::new() } else { log.epoch };
        let sequence = Sequence(sequence);
        let resume = ResumeFrom::After { epoch, sequence, event_id: None };
        let received = start(log, &ResumeFrom::Received { epoch, sequence }, own, true);
        // What was received and not confirmed comes again.
        let is_ahead = own < sequence && !is_foreign && sequence <= log.head;
        let from = if is_ahead { &ResumeFrom::Server } else { &resume };
        prop_assert_eq!(received, start(log, from, own, true));
        // What was confirmed before does not come again.
        let confirmed = start(log, &ResumeFrom::Confirmed { epoch, sequence }, own, true);
        let is_behind = own > sequence && !is_foreign;
        let from = if is_behind { &ResumeFrom::Server } else { &resume };
        prop_assert_eq!(confirmed, start(log, from, own, true));
        let is_of_it = !is_foreign && is_same && sequence <= log.head;
        match start(log, &resume, own, is_same) {
            Start::At(position) => {
                prop_assert!(is_of_it && position == sequence && position >= log.floor);
            }
            Start::Gap(gap) if gap.reason == GapReason::Retention => {
                prop_assert!(is_of_it && sequence < log.floor);
                prop_assert_eq!((gap.from, gap.resume_at), (sequence.next(), log.floor));
            }
            Start::Gap(gap) => {
                prop_assert!(!is_of_it);
                prop_assert_eq!((gap.reason, gap.from), (GapReason::Epoch, Sequence(1)));
                prop_assert_eq!((gap.to, gap.resume_at), (log.head, log.head));
            }
        }
    }
}
