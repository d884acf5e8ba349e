//! The report as people read it.

use llmasos_forge::compress::report::{Agreement, CompressReport, StepReport};
use llmasos_forge::evaluate::Evaluation;
use serde_json::Value;

use crate::models::{duration_words, size_words};

/// Characters of a value in the table of a step.
const VALUE_CHARS: usize = 60;

/// The lines of a report.
pub(super) fn lines(report: &CompressReport) -> Vec<String> {
    let mut lines = Vec::new();
    for step in &report.steps {
        lines.push(step_line(step));
        let notes = step.detail["notes"].as_array().into_iter().flatten();
        lines.extend(
            notes
                .filter_map(Value::as_str)
                .map(|note| format!("         {note}")),
        );
    }
    if let Some(found) = &report.evaluation {
        lines.push(String::new());
        lines.extend(evaluation(found));
    }
    if let Some(found) = &report.codes {
        lines.push(format!(
            "codes alone     {:.4} nats a token, perplexity {:+.2} %   (activations in 32-bit floats)",
            found.kl,
            found.perplexity_increase * 100.0
        ));
    }
    if let Some(found) = &report.agreement {
        lines.push(String::new());
        lines.extend(agreement(found, report));
    }
    lines.push(String::new());
    lines.extend(measured(report));
    lines
}

/// `prune     12.3 s  134.5 M → 117.2 M parameters   what: …`
pub(super) fn step_line(step: &StepReport) -> String {
    let time = match step.is_resumed {
        true => "from before".to_owned(),
        false => duration_words(std::time::Duration::from_secs_f64(step.seconds.max(0.0))),
    };
    let detail = match &step.detail {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, value)| !value.is_array() && !value.is_object())
            .map(|(name, value)| format!("{name} {}", short(value)))
            .collect::<Vec<_>>()
            .join(", "),
        _ => String::new(),
    };
    let millions = step.parameters as f64 / 1e6;
    format!(
        "{:<9}{time:>12}  {millions:.1} M parameters  {detail}",
        step.step
    )
    .trim_end()
    .to_owned()
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if !number.is_i64() && !number.is_u64() => format!("{float:.4}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    };
    text.chars().take(VALUE_CHARS).collect()
}

/// What it cost.
pub(crate) fn evaluation(found: &Evaluation) -> Vec<String> {
    vec![
        format!(
            "perplexity      {:.2}   (original {:.2}, {:+.2} %)",
            found.perplexity,
            found.reference_perplexity,
            found.perplexity_increase * 100.0
        ),
        format!(
            "divergence      {:.4} nats a token   (99 % below {:.3}, at most {:.2})",
            found.kl, found.kl_p99, found.kl_max
        ),
        format!("same next word  {:.1} %", found.top1 * 100.0),
        format!(
            "                at {} positions of {} sequences of {} tokens that no step has read",
            found.positions, found.sequences, found.length
        ),
    ]
}

/// How far a detector or encoder says what its original says.
fn agreement(found: &Agreement, report: &CompressReport) -> Vec<String> {
    match found {
        Agreement::Detector { min_score, found } => {
            let pictures = report.pictures.iter();
            let test = pictures.filter(|it| it.purpose == "test");
            vec![
                format!(
                    "agreement       {:.3} mean average precision   (boxes of the original from score {min_score} on are the truth)",
                    found.mean_average_precision
                ),
                format!(
                    "boxes           {:.1} % of the original's found, {:.1} % of the found are the original's, overlap {:.3}",
                    found.recall * 100.0,
                    found.precision * 100.0,
                    found.mean_overlap
                ),
                format!(
                    "                in {} views of {} pictures that no step has looked at",
                    found.pictures,
                    test.map(|it| it.files.len()).sum::<usize>()
                ),
            ]
        }
        Agreement::Encoder { found } => vec![
            format!(
                "cosine          {:.4} to the original's vectors   (least {:.4})",
                found.mean_cosine, found.min_cosine
            ),
            format!(
                "ranking         {:.1} % of the ten nearest sentences are the same, rank correlation {:.4}",
                found.same_neighbours * 100.0,
                found.rank_correlation
            ),
            format!(
                "                of {} sentences that no step has read",
                found.sentences
            ),
        ],
    }
}

fn measured(report: &CompressReport) -> Vec<String> {
    let found = &report.measured;
    let mut lines = vec![format!(
        "size            {}   (the folder, with both graphs: {})",
        size_words(found.graph_bytes),
        size_words(found.bytes)
    )];
    if let Some(zipped) = found.zipped_bytes {
        let saved = 1.0 - zipped as f64 / found.graph_bytes.max(1) as f64;
        lines.push(format!(
            "zipped          {}   ({:.1} % less to store or to send, which is all that a mask saves)",
            size_words(zipped),
            saved * 100.0
        ));
    }
    if let (Some(prefill), Some(decode)) = (found.prefill, found.decode) {
        lines.push(format!(
            "speed           {prefill:.0} tokens/s of a prompt, {decode:.0} of an answer, with {} threads",
            found.threads
        ));
    }
    if let Some(beside) = &found.beside {
        lines[0] = format!(
            "size            {}   (the original: {})",
            size_words(found.graph_bytes),
            size_words(beside.original_bytes)
        );
        lines.push(format!(
            "speed           {:.2} ms a run, the original {:.2} ms: {:.2} times as fast, with {} threads",
            beside.run_ms, beside.original_run_ms, beside.speedup, found.threads
        ));
    }
    if let Some(resident) = found.resident_bytes {
        lines.push(format!(
            "memory          {} loaded and warm",
            size_words(resident)
        ));
    }
    let peak = found.peak_bytes.map_or_else(String::new, |peak| {
        format!(", at most {} of memory", size_words(peak))
    });
    let time = duration_words(std::time::Duration::from_secs_f64(found.seconds.max(0.0)));
    lines.push(format!("it took         {time}{peak}"));
    lines
}

#[cfg(test)]
mod tests {
    use llmasos_forge::compress::{
        recipe::CompressRecipe,
        report::{Measured, REPORT_FORMAT, SourceReport},
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mask_says_plainly_what_it_saves() {
        let report = CompressReport {
            format: REPORT_FORMAT.into(),
            source: SourceReport {
                name: "m".into(),
                sha256: String::new(),
                parameters: 1,
            },
            recipe: CompressRecipe::default(),
            texts: Vec::new(),
            pictures: Vec::new(),
            steps: vec![StepReport {
                step: "prune".into(),
                parameters: 1_000_000,
                seconds: 1.0,
                is_resumed: false,
                detail: json!({ "zeros": 5, "notes": ["a mask saves no CPU time"] }),
            }],
            evaluation: None,
            codes: None,
            agreement: None,
            measured: Measured {
                graph_bytes: 100_000_000,
                zipped_bytes: Some(60_000_000),
                ..Measured::default()
            },
            is_within_budget: true,
        };
        let text = lines(&report).join("\n");
        assert!(
            text.contains("zeros 5\n         a mask saves no CPU time"),
            "{text}"
        );
        assert!(text.contains("60.0 MB   (40.0 % less"), "{text}");
    }
}
