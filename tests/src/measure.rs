//! Measures how long operations and programs take, for `cargo xtask bench`.

use std::{
    future::Future,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The duration of one turn of a side.
const TURN: Duration = Duration::from_millis(600);

/// The number of operations per second that `callers` complete in one turn. Each caller has its own key, and starts the
/// next operation as soon as it has the response.
pub async fn turn<F>(callers: usize, op: impl Fn(String) -> F + Clone + Send + 'static) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begin = Instant::now();
    let caller = |number: usize| {
        let op = op.clone();
        async move {
            let mut done = 0_u32;
            while begin.elapsed() < TURN {
                op(format!("c{number}")).await?;
                done += 1;
            }
            anyhow::Ok(done)
        }
    };
    let tasks: Vec<_> = (0..callers).map(|number| tokio::spawn(caller(number))).collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(f64::from(done) / begin.elapsed().as_secs_f64())
}

/// The median; 0 of no values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The duration of one run in milliseconds.
pub fn time(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let status =
        command.env_clear().stdout(Stdio::null()).status().context("run a program (is curl there?)")?;
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(took)
}

/// The number of operations per second that `callers` complete, each with its share of the names.
pub async fn rate<F>(
    callers: usize,
    names: &[String],
    op: impl Fn(String) -> F + Clone + Send + 'static,
) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let begin = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let own: Vec<_> = names.iter().skip(caller).step_by(callers).cloned().collect();
            let op = op.clone();
            tokio::spawn(async move {
                for name in own {
                    op(name).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let count = names.len() as f64;
    Ok(count / begin.elapsed().as_secs_f64())
}
