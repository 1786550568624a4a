//! `roster bench`: what one's own servers can do, as tables, JSON and plots.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use crate::app::bench::{self, Full, Mode, Part, Plan, Progress, Report};
use crate::config::{BrokerArgs, DatabaseArgs};

use super::{fail, say};

/// Measure what the servers can do, in a namespace and a database of its own that are deleted afterwards
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,

    /// Its namespace is what the name of the bench's own starts with
    #[command(flatten)]
    pub broker: BrokerArgs,

    /// What to measure, comma-separated [default: all but sweep]
    #[arg(value_name = "MODE", value_delimiter = ',')]
    pub modes: Vec<Mode>,

    /// Commands in a backlog; the slower measurements take a share of it
    #[arg(long, value_name = "COUNT", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: u64,

    /// Users that the commands are spread over
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub users: u64,

    /// How often everything is measured, one after the other in each round
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,

    /// ROSTER_LANES of the worker [default: its own]
    #[arg(long, value_name = "COUNT")]
    pub lanes: Option<u32>,

    /// ROSTER_BATCH of the worker [default: its own]
    #[arg(long, value_name = "COUNT")]
    pub batch: Option<u32>,

    /// ROSTER_PREFETCH of the worker [default: its own]
    #[arg(long, value_name = "COUNT")]
    pub prefetch: Option<u16>,

    /// Workers side by side in mode batch
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub replicas: u32,

    /// Also what takes long, half an hour and more: a million users, a transaction held open, a long backlog
    #[arg(long)]
    pub full: bool,

    /// A share of the size of what --full measures
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, hide = true)]
    pub full_share: f64,

    /// The report as JSON, for machines
    #[arg(long)]
    pub json: bool,

    /// A folder for plots (SVG)
    #[arg(long, value_name = "DIR")]
    pub plots: Option<PathBuf>,

    /// What its namespace and its database are named with
    #[arg(long, value_name = "ID", hide = true, value_parser = id)]
    pub id: Option<String>,

    /// Stand in for the worker instead: what the bench starts as a child process
    #[arg(long, value_name = "PART", hide = true)]
    pub act_as: Option<Part>,
}

pub(super) async fn run(args: BenchArgs) -> ExitCode {
    if let Some(part) = args.act_as {
        return match bench::act(part, &args.broker).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error),
        };
    }
    let progress = Bar::new();
    let report = bench::run(&plan(&args), &progress).await;
    progress.0.finish_and_clear();
    let report = match report {
        Ok(report) => report,
        Err(error) => return fail(error),
    };
    if args.json {
        say(report.json());
    } else {
        show(&report);
    }
    if let Some(folder) = &args.plots
        && let Err(error) = bench::draw(&report, folder)
    {
        return fail(error);
    }
    ExitCode::SUCCESS
}

/// It is put into SQL as it is.
fn id(text: &str) -> Result<String, String> {
    let fits = (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if fits { Ok(text.to_owned()) } else { Err("must be 1 to 32 of a to z and 0 to 9".to_owned()) }
}

fn plan(args: &BenchArgs) -> Plan {
    let modes = if args.modes.is_empty() { Mode::USUAL.to_vec() } else { args.modes.clone() };
    Plan {
        amqp_url: args.broker.amqp_url.clone(),
        database_url: args.database.database_url.clone(),
        namespace: args.broker.namespace.as_str().to_owned(),
        id: args.id.clone(),
        modes,
        messages: args.messages,
        users: args.users,
        rounds: args.rounds,
        lanes: args.lanes,
        batch: args.batch,
        prefetch: args.prefetch,
        replicas: args.replicas,
        full: args.full.then(|| full(args.full_share)),
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes far below 2^52, and none below zero"
)]
fn full(share: f64) -> Full {
    let Full { users, events, waiting, hold } = Full::default();
    let share = share.clamp(0.0, 1.0);
    let of = |whole: u64| ((whole as f64 * share) as u64).max(1);
    Full {
        users: of(users),
        events: of(events),
        waiting: of(waiting),
        hold: Duration::from_secs_f64(hold.as_secs_f64() * share),
    }
}

fn show(report: &Report) {
    say(format_args!(
        "{} commands over {} users, {} rounds, {} cores\n",
        report.messages, report.users, report.rounds, report.cores
    ));
    let mut figures = table(&["MEASURED", "MEDIAN", "FROM", "TO", ""]);
    for series in &report.series {
        let (least, most) = series.range();
        let [median, least, most] = [series.median(), least, most].map(number);
        figures.add_row([series.name, &median, &least, &most, series.unit]);
    }
    say(figures);
    if !report.sweep.is_empty() {
        let mut sweep = table(&["LANES", "BATCH", "MEDIAN /s"]);
        for point in &report.sweep {
            let rate = number(bench::median(&point.rates));
            sweep.add_row([point.lanes.to_string(), point.batch.to_string(), rate]);
        }
        say(format_args!("\n{sweep}"));
    }
    if !report.ratios.is_empty() {
        let mut ratios = table(&["RATIO", "MEDIAN", "FROM", "TO", "TARGET", ""]);
        for ratio in &report.ratios {
            let (least, most) = bench::range(&ratio.values);
            let [median, least, most] = [ratio.median(), least, most].map(|ratio| format!("{ratio:.2}"));
            ratios.add_row([ratio.name, &median, &least, &most, &ratio.verdict(), ratio.what]);
        }
        say(format_args!("\n{ratios}"));
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// On a terminal; nothing elsewhere.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{spinner} {msg} {wide_bar} {pos}/{len}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str) {
        self.0.set_message(what.to_owned());
        self.0.set_length(0);
        self.0.set_position(0);
    }

    fn at(&self, done: u64, of: u64) {
        self.0.set_length(of);
        self.0.set_position(done);
    }
}
