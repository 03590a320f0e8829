//! Cost against length, as an SVG.

use super::report::Row;
use anyhow::{Result, anyhow, bail};
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (900, 560);
/// Colours that stay apart in print and for most colour-blind readers.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 86, 86),
];

/// One line of the plot: what its problems have in common, and its points.
struct Series {
    label: String,
    points: Vec<(f64, f64)>,
}

/// Writes nanoseconds per token and head against the number of tokens, one line per kind of problem.
pub fn write(path: &Path, rows: &[Row]) -> Result<()> {
    if rows.is_empty() {
        bail!("--plot: no problem was measured");
    }
    let series = series(rows);
    draw(path, &series).map_err(|error| anyhow!("--plot {}: {error}", path.display()))
}

fn series(rows: &[Row]) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for row in rows {
        let problem = &row.problem;
        let label = label(row);
        let point = (problem.n_queries as f64, row.measured.ns_per_token_head(problem));
        match all.iter_mut().find(|series| series.label == label) {
            Some(series) => series.points.push(point),
            None => all.push(Series { label, points: vec![point] }),
        }
    }
    all.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    all
}

/// What a line's problems have in common: all but the length.
fn label(row: &Row) -> String {
    let problem = &row.problem;
    let [q, k, v] = problem.heads;
    let heads = if q == k && k == v { format!("H={q}") } else { format!("H={q}/{k}/{v}") };
    let (name, isa, threads) = (problem.mechanism.name, row.measured.isa, problem.threads);
    let sizes = format!("B={} {heads} D={} E={}", problem.batch, problem.dim_qk, problem.dim_v);
    let pass = if problem.grad { " backward" } else { "" };
    format!("{name} {}{pass} {sizes} {} {isa}x{threads} {}", problem.mode, problem.dtype, problem.extras())
}

fn draw(path: &Path, all: &[Series]) -> Result<(), Box<dyn std::error::Error>> {
    let points = || all.iter().flat_map(|series| &series.points);
    let span = |values: &dyn Fn(&(f64, f64)) -> f64| {
        let low = points().map(values).fold(f64::INFINITY, f64::min);
        let high = points().map(values).fold(0.0, f64::max);
        (low, high)
    };
    let ((t_low, t_high), (_, cost_high)) = (span(&|p| p.0), span(&|p| p.1));
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Cost of a token against the length of the sequence", ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (t_low / 1.2..t_high * 1.2).log_scale().base(2.0),
            0.0..cost_high * (1.15 + 0.06 * all.len() as f64),
        )?;
    chart
        .configure_mesh()
        .x_desc("tokens")
        .y_desc("ns per token and head")
        .x_label_formatter(&|t| length(*t))
        .y_label_formatter(&|ns| crate::table::digits(*ns))
        .light_line_style(WHITE)
        .label_style(("sans-serif", 14))
        .draw()?;
    for (i, series) in all.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        chart
            .draw_series(LineSeries::new(series.points.iter().copied(), colour.stroke_width(2)))?
            .label(&series.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(series.points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    root.present()?;
    Ok(())
}

fn length(t: f64) -> String {
    match t {
        t if t >= 1048576.0 => format!("{}M", crate::table::digits(t / 1048576.0)),
        t if t >= 1024.0 => format!("{}k", crate::table::digits(t / 1024.0)),
        t => crate::table::digits(t),
    }
}
