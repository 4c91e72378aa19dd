//! Rotations that are stopped at every moment, each followed by the next run, ours or Rook's.

use kms_core::{ErrorKind, Kek, Retry};
use kms_rotation::Outcome;
use kms_testkit::{
    fake::{InjectedFault, Operation},
    luks::{Image, Rook},
};

use crate::bench::{Bench, Stop, at_once, kek, name};

/// A bench with copies of a prepared image.
async fn bench(kek: &Kek, template: &Image, devices: usize) -> Bench {
    Bench::copies(kek, template, devices).await
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn after_a_stop_at_any_moment_the_kek_opens_everything_and_the_next_run_converges() {
    let kek = kek();
    let template = Image::luks2(&kek);
    for devices in [1, 3] {
        // With several devices, stop at writes only: between other moments nothing visible happens. `cargo xtask crash`
        // tries all moments of real processes on real servers.
        let stop: fn(usize) -> Stop = if devices == 1 { Stop::at } else { Stop::at_write };
        for moment in (0..).step_by(devices) {
            let bench = bench(&kek, &template, devices).await;
            let when = format!("{devices} devices, moment {moment}");
            if !bench.stopped(&at_once(), &stop(moment)).await {
                assert!(moment >= 4 * devices, "{when}");
                break;
            }
            bench.holds(&when).await;
            let report = bench.rotate(&at_once()).await.unwrap();
            assert_eq!(report.outcome, Outcome::Rotated, "{when}");
            bench.converged(&when).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn after_two_stops_around_writes_everything_holds_too() {
    let kek = kek();
    let template = Image::luks2(&kek);
    // The long run is `cargo xtask crash`; here each moment of the first run meets a few moments of the second.
    for first in 0..6 {
        for second in (first % 3..10).step_by(3) {
            let bench = bench(&kek, &template, 1).await;
            let when = format!("stopped at {first} and {second}");
            assert!(bench.stopped(&at_once(), &Stop::at_write(first)).await, "{when}");
            bench.stopped(&at_once(), &Stop::at_write(second)).await;
            bench.holds(&when).await;
            bench.rotate(&at_once()).await.unwrap();
            bench.converged(&when).await;
        }
    }
}

/// The run was killed with its write on the way, and the write arrives while the next run is at work.
#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn a_write_of_a_killed_run_that_arrives_in_the_next_one_does_no_harm() {
    // The calls of the next run: read, store again, ask, store, read back.
    for calls in 1..=5 {
        let bench = Bench::cheap(2).await;
        let fault =
            InjectedFault::error(ErrorKind::Timeout).retry(Retry::IfIdempotent).applied_before_call(calls);
        bench.kms.push(Operation::Put, fault);
        // Killed when the write was sent: the next announcement would be the end of the write.
        let sent = 2 * 2;
        assert!(bench.stopped(&at_once(), &Stop::at_write(sent + 1)).await);
        bench.holds("after the stop").await;
        let next = bench.rotate(&at_once()).await;
        bench.holds(&format!("call {calls}: {next:?}")).await;
        bench.rotate(&at_once()).await.unwrap();
        bench.converged("at last").await;
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn ours_finishes_what_rook_began() {
    let kek = kek();
    let template = Image::argon2id(&kek);
    for devices in 1..=2 {
        for steps in 0.. {
            let bench = bench(&kek, &template, devices).await;
            let stopped = Rook::new(&*bench.kms, &name(), &bench.images).run_steps(steps).await;
            let when = format!("Rook on {devices} devices after {steps} steps");
            bench.holds(&when).await;
            bench.rotate(&at_once()).await.unwrap();
            bench.converged(&when).await;
            if !stopped {
                assert!(steps > 4 * devices, "{steps}");
                break;
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn rook_finishes_what_ours_began() {
    let kek = kek();
    let template = Image::luks2(&kek);
    // Begin with a fresh device, whose KEK is in slot 0, and with a device that we have rotated, whose KEK is in slot
    // 1.
    for rotated in [false, true] {
        for devices in 1..=2 {
            for moment in 0.. {
                let bench = bench(&kek, &template, devices).await;
                if rotated {
                    bench.rotate(&at_once()).await.unwrap();
                }
                let stopped = bench.stopped(&at_once(), &Stop::at_write(moment)).await;
                let when = format!("ours on {devices} devices (rotated: {rotated}), moment {moment}");
                bench.holds(&when).await;
                Rook::new(&*bench.kms, &name(), &bench.images).run().await;
                let current = bench.converged(&when).await;
                assert!(
                    bench.images.iter().all(|image| image.opens_slot(0, &current)),
                    "{when}: Rook uses slot 0"
                );
                if !stopped {
                    assert!(moment > 2 * devices, "{moment}");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs cryptsetup: cargo xtask it rotation"]
async fn ours_and_rook_taking_turns_at_every_step_lose_nothing() {
    let kek = kek();
    let template = Image::argon2id(&kek);
    for steps in 0..8 {
        for moment in (steps % 2..6).step_by(2) {
            let bench = bench(&kek, &template, 1).await;
            let when = format!("Rook {steps} steps, ours {moment} moments");
            Rook::new(&*bench.kms, &name(), &bench.images).run_steps(steps).await;
            bench.holds(&when).await;
            bench.stopped(&at_once(), &Stop::at_write(moment)).await;
            bench.holds(&when).await;
            Rook::new(&*bench.kms, &name(), &bench.images).run_steps(7 - steps.min(7)).await;
            bench.holds(&when).await;
            if (steps + moment) % 2 == 0 {
                bench.rotate(&at_once()).await.unwrap();
            } else {
                Rook::new(&*bench.kms, &name(), &bench.images).run().await;
            }
            bench.converged(&when).await;
        }
    }
}
