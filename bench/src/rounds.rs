//! Interleaved rounds: in each, every contender of a group is measured once, forwards and backwards by turns, so that what
//! changes slowly on the machine hits all of them alike. A round in which it was not quiet is repeated.

use anyhow::Result;

use crate::contender::Group;
use crate::machine;
use crate::measure::{TESTS, Test};
use crate::quiet::Quiet;
use crate::report::{Described, Report, Row, Sample};
use crate::standing::{Standing, Tools};

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) seconds: u32,
    /// Only these tests; all when there are none.
    pub(crate) tests: Vec<String>,
    /// Only these contenders; all when there are none.
    pub(crate) contenders: Vec<String>,
}

/// Builds every contender of the group, lets them take turns, takes them down.
pub(crate) fn run_group(
    group: &Group,
    tools: &Tools,
    effort: &Effort,
    quiet: &mut Quiet,
    report: &mut Report,
) -> Result<()> {
    let mut standing: Vec<Standing<'_>> = Vec::new();
    let wanted = |name: &String| effort.contenders.is_empty() || effort.contenders.contains(name);
    for contender in group.contenders.iter().filter(|c| wanted(&c.name)) {
        match Standing::up(contender, tools) {
            Ok(one) => {
                report.contenders.push(Described {
                    group: group.name.to_owned(),
                    name: contender.name.clone(),
                    rung: one.rung()?,
                    offloads: one.offloads(),
                });
                standing.push(one);
            }
            Err(why) => report.skip(format!("{} {}: {why:#}", group.name, contender.name)),
        }
    }
    let names: Vec<String> = standing.iter().map(|s| s.contender.name.clone()).collect();
    for test in TESTS.iter().filter(|t| effort.tests.is_empty() || effort.tests.iter().any(|name| name == t.name)) {
        let rounds = run_test(group.name, test, &standing, effort, quiet, report)?;
        report.rows.extend(test.figures.iter().enumerate().map(|(index, figure)| {
            let sample = |samples: &Option<Vec<Sample>>| samples.as_ref().map(|s| s[index].clone());
            Row {
                group: group.name.to_owned(),
                figure: *figure,
                contenders: names.clone(),
                rounds: rounds.iter().map(|round| round.iter().map(sample).collect()).collect(),
            }
        }));
    }
    Ok(())
}

/// Per round, what each contender gave: a sample for each of the test's figures.
type Rounds = Vec<Vec<Option<Vec<Sample>>>>;

fn run_test(
    group: &str,
    test: &Test,
    standing: &[Standing<'_>],
    effort: &Effort,
    quiet: &mut Quiet,
    report: &mut Report,
) -> Result<Rounds> {
    let mut taking_part: Vec<bool> = standing.iter().map(|s| s.contender.joins(test.name)).collect();
    let mut rounds = Rounds::new();
    let mut run = 0;
    while rounds.len() < effort.rounds {
        eprintln!("{group} {} round {} of {}", test.name, rounds.len() + 1, effort.rounds);
        let mut round = vec![None; standing.len()];
        let mut order: Vec<usize> = (0..standing.len()).filter(|at| taking_part[*at]).collect();
        if rounds.len() % 2 == 1 {
            order.reverse();
        }
        quiet.wait()?;
        let mut disturbed = false;
        for at in order {
            run += 1;
            let rung = standing[at].rung()?;
            let (values, load) =
                machine::watch(&mut quiet.processors, || test.run(&standing[at], effort.seconds, run))?;
            disturbed = quiet.disturbed(&load);
            match values {
                Ok(values) => {
                    let sample = |value| Sample { value, load, rung: rung.clone() };
                    round[at] = Some(values.into_iter().map(sample).collect());
                }
                Err(why) => {
                    taking_part[at] = false;
                    report.skip(format!("{group} {why:#}"));
                }
            }
            if disturbed {
                break;
            }
        }
        if disturbed {
            quiet.repeat();
            continue;
        }
        rounds.push(round);
    }
    Ok(rounds)
}
