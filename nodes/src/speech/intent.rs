//! What a sentence asks for: intent and slots by rules that can be read, tested and trusted with a stop.
//!
//! No model runs here. A stop or pull-over is found by its words alone ([`Way::Keyword`]); everything else by short patterns
//! ([`Way::Exact`]). A sentence that matches nothing has no intent; what a language model makes of it is decided elsewhere and never
//! becomes a stop.
//!
//! ```text
//! "please don't stop" ─ words ─▶ [don't] [stop] ─▶ STOP, negated     "the bus stop" ─▶ nothing: a noun
//! ```

/// Most words looked at; a longer monologue is not a command.
pub const WORDS_MAX: usize = 64;

/// Longest destination kept, in bytes (the message's bound).
pub const DESTINATION_BYTES_MAX: usize = 256;

/// What was asked for; the numbers are those of `llmasos_msgs/msg/SpeechCommand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the message's own constants, explained there
pub enum Intent {
    Unknown = 0,
    Stop = 1,
    PullOver = 2,
    SlowDown = 3,
    SpeedUp = 4,
    SetSpeed = 5,
    LaneLeft = 6,
    LaneRight = 7,
    Navigate = 8,
    Confirm = 9,
    Cancel = 10,
    Keep = 11,
}

/// Which path understood it; the numbers are those of `SpeechCommand.source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// A fast word.
    Keyword = 1,
    /// A pattern.
    Exact = 2,
}

/// Words that must never wait: configurable, because vehicles speak other languages too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastWords {
    /// Phrases that mean STOP.
    pub stop: Vec<String>,
    /// Phrases that mean PULL_OVER.
    pub pull_over: Vec<String>,
}

impl Default for FastWords {
    fn default() -> Self {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        FastWords {
            stop: list(&["stop", "halt"]),
            pull_over: list(&["pull over", "pull aside", "pull in"]),
        }
    }
}

/// A sentence understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Understanding {
    /// What was asked for.
    pub intent: Intent,
    /// How it was found.
    pub way: Way,
    /// "don't …".
    pub negated: bool,
    /// In [0, 1]: 1 when nothing else was said.
    pub confidence: f32,
    /// For SET_SPEED, in m/s; NaN otherwise.
    pub target_speed_mps: f32,
    /// For NAVIGATE; empty otherwise.
    pub destination: String,
}

const FILLERS: &[&str] = &[
    "please",
    "now",
    "the",
    "a",
    "car",
    "hey",
    "can",
    "could",
    "would",
    "will",
    "you",
    "just",
    "right",
    "here",
    "there",
    "ok",
    "okay",
    "and",
    "then",
    "bit",
    "little",
    "vehicle",
    "immediately",
    "quickly",
    "for",
    "me",
    "i",
    "want",
    "to",
    "need",
    "it",
    "at",
    "once",
    "us",
    "let's",
    "lets",
    "so",
    "um",
    "uh",
    "oh",
];
const NEGATIONS: &[&str] = &[
    "don't", "dont", "not", "never", "no", "without", "cannot", "can't", "mustn't", "won't",
];
/// How many words before a command its negation may stand: "do not under any circumstances stop".
const NEGATION_REACH: usize = 5;
/// Words before "stop" that make it a noun.
const NOUN_BEFORE: &[&str] = &[
    "bus", "tram", "train", "truck", "pit", "full", "rest", "non", "taxi", "metro", "coach",
    "last", "next", "first",
];
/// Words after "stop" that make it a noun.
const NOUN_AFTER: &[&str] = &["sign", "signs", "light", "lights", "line", "watch"];

const PATTERNS: &[(Intent, &[&str])] = &[
    (
        Intent::LaneLeft,
        &[
            "left lane",
            "lane left",
            "lane to the left",
            "lane on the left",
        ],
    ),
    (
        Intent::LaneRight,
        &[
            "right lane",
            "lane right",
            "lane to the right",
            "lane on the right",
        ],
    ),
    (
        Intent::SlowDown,
        &[
            "slow down",
            "slow it down",
            "drive slower",
            "go slower",
            "slower",
            "reduce speed",
            "reduce the speed",
            "less speed",
            "too fast",
            "not so fast",
        ],
    ),
    (
        Intent::SpeedUp,
        &[
            "speed up",
            "go faster",
            "drive faster",
            "faster",
            "accelerate",
            "hurry up",
            "hurry",
            "too slow",
            "step on it",
        ],
    ),
    (
        Intent::Keep,
        &[
            "keep going",
            "keep driving",
            "carry on",
            "continue",
            "keep your lane",
            "stay in lane",
            "stay in your lane",
            "drive on",
        ],
    ),
    (
        Intent::Cancel,
        &["cancel", "never mind", "nevermind", "forget it", "abort"],
    ),
    (
        Intent::Confirm,
        &[
            "confirm",
            "confirmed",
            "go ahead",
            "do it",
            "that's right",
            "yes please",
        ],
    ),
];
const WHOLE: &[(Intent, &[&str])] = &[
    (
        Intent::Confirm,
        &["yes", "yeah", "yep", "sure", "ok", "okay"],
    ),
    (Intent::Cancel, &["no", "nope", "no thanks", "no thank you"]),
    (Intent::SlowDown, &["slow"]),
];
const NAVIGATE: &[&str] = &[
    "navigate to",
    "take me to",
    "take us to",
    "drive me to",
    "drive us to",
    "drive to",
    "go to",
    "bring me to",
    "bring us to",
    "directions to",
    "head to",
];

/// Understands a sentence; `None` when it asks for nothing known.
pub fn understand(sentence: &str, fast: &FastWords) -> Option<Understanding> {
    let words = words(sentence);
    if words.is_empty() {
        return None;
    }
    keyword(&words, Intent::Stop, &fast.stop)
        .or_else(|| keyword(&words, Intent::PullOver, &fast.pull_over))
        .or_else(|| set_speed(&words))
        .or_else(|| pattern(&words))
        .or_else(|| navigate(&words))
}

/// Lower-case words without punctuation; apostrophes inside words stay, typographic ones become plain.
pub fn words(sentence: &str) -> Vec<String> {
    let lower = sentence
        .to_lowercase()
        .replace(['\u{2019}', '\u{2018}', '`'], "'");
    lower
        .split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '.' || c == '/'))
        .map(|word| {
            word.trim_matches(|c| c == '\'' || c == '.' || c == '/')
                .to_owned()
        })
        .filter(|word| !word.is_empty())
        .take(WORDS_MAX)
        .collect()
}

fn keyword(words: &[String], intent: Intent, phrases: &[String]) -> Option<Understanding> {
    phrases.iter().find_map(|phrase| {
        let phrase: Vec<&str> = phrase.split_whitespace().collect();
        let at = positions(words, &phrase)
            .find(|at| !(intent == Intent::Stop && is_noun(words, *at, phrase.len())))?;
        let negated = is_negated(words, at);
        // A command opens its sentence or its clause; in the middle of a story it is only as sure as the share it has of the words.
        let opens = words[..at].iter().all(|word| {
            FILLERS.contains(&word.as_str()) || NEGATIONS.contains(&word.as_str()) || word == "do"
        });
        let share = share(words, at, phrase.len());
        let confidence = if opens { share.max(0.9) } else { share };
        Some(Understanding {
            intent,
            way: Way::Keyword,
            negated,
            confidence,
            target_speed_mps: f32::NAN,
            destination: String::new(),
        })
    })
}

fn pattern(words: &[String]) -> Option<Understanding> {
    let exact = |intent, at, len| Understanding {
        intent,
        way: Way::Exact,
        negated: is_negated(words, at),
        confidence: share(words, at, len),
        target_speed_mps: f32::NAN,
        destination: String::new(),
    };
    for (intent, phrases) in WHOLE {
        if phrases
            .iter()
            .any(|phrase| phrase.split(' ').eq(words.iter().map(String::as_str)))
        {
            return Some(Understanding {
                negated: false,
                ..exact(*intent, 0, words.len())
            });
        }
    }
    let mut best: Option<(usize, Understanding)> = None;
    for (intent, phrases) in PATTERNS {
        for phrase in *phrases {
            let phrase: Vec<&str> = phrase.split(' ').collect();
            if let Some(at) = positions(words, &phrase).next()
                && best.as_ref().is_none_or(|(len, _)| phrase.len() > *len)
            {
                // "not so fast" carries its own "not"; "never mind" its own "never".
                let own = NEGATIONS.contains(&phrase[0]);
                let found = exact(*intent, at, phrase.len());
                best = Some((
                    phrase.len(),
                    Understanding {
                        negated: found.negated && !own,
                        ..found
                    },
                ));
            }
        }
    }
    best.map(|(_, found)| found)
}

fn set_speed(words: &[String]) -> Option<Understanding> {
    const UNITS: &[(&[&str], f32)] = &[
        (&["kilometers per hour"], 1.0 / 3.6),
        (&["kilometres per hour"], 1.0 / 3.6),
        (
            &["km/h", "kmh", "kph", "kilometers", "kilometres"],
            1.0 / 3.6,
        ),
        (&["miles per hour"], 0.447_04),
        (&["mph", "miles"], 0.447_04),
        (&["meters per second", "metres per second"], 1.0),
        (&["m/s"], 1.0),
    ];
    let asks = words
        .iter()
        .any(|word| ["speed", "drive", "go", "set", "at", "keep", "make"].contains(&word.as_str()));
    for (at, _) in words.iter().enumerate() {
        let Some((number, used)) = number(&words[at..]) else {
            continue;
        };
        for (names, factor) in UNITS {
            for name in *names {
                let unit: Vec<&str> = name.split(' ').collect();
                let after = &words[at + used..];
                if after.len() >= unit.len() && unit.iter().zip(after).all(|(a, b)| a == b) && asks
                {
                    let target_speed_mps = number * factor;
                    return Some(Understanding {
                        intent: Intent::SetSpeed,
                        way: Way::Exact,
                        negated: is_negated(words, at),
                        confidence: share(words, at, used + unit.len()).max(0.75),
                        target_speed_mps,
                        destination: String::new(),
                    });
                }
            }
        }
    }
    None
}

fn navigate(words: &[String]) -> Option<Understanding> {
    NAVIGATE.iter().find_map(|phrase| {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        let at = positions(words, &phrase).next()?;
        let mut destination = words[at + phrase.len()..].join(" ");
        while destination.len() > DESTINATION_BYTES_MAX {
            destination.pop();
        }
        let rest_is_command = !destination.is_empty();
        rest_is_command.then(|| Understanding {
            intent: Intent::Navigate,
            way: Way::Exact,
            negated: is_negated(words, at),
            confidence: if words[..at]
                .iter()
                .all(|word| FILLERS.contains(&word.as_str()))
            {
                0.9
            } else {
                0.5
            },
            target_speed_mps: f32::NAN,
            destination,
        })
    })
}

fn positions<'a>(words: &'a [String], phrase: &'a [&'a str]) -> impl Iterator<Item = usize> + 'a {
    words
        .windows(phrase.len().max(1))
        .enumerate()
        .filter(move |(_, window)| window.iter().zip(phrase).all(|(a, b)| a == b))
        .map(|(at, _)| at)
}

fn is_noun(words: &[String], at: usize, len: usize) -> bool {
    let before = at
        .checked_sub(1)
        .and_then(|index| words.get(index))
        .is_some_and(|word| NOUN_BEFORE.contains(&word.as_str()));
    let after = words
        .get(at + len)
        .is_some_and(|word| NOUN_AFTER.contains(&word.as_str()));
    before || after
}

fn is_negated(words: &[String], at: usize) -> bool {
    words[at.saturating_sub(NEGATION_REACH)..at]
        .iter()
        .any(|word| NEGATIONS.contains(&word.as_str()))
}

/// Share of the words that carry meaning which the command accounts for, mapped to [0.5, 1].
fn share(words: &[String], at: usize, len: usize) -> f32 {
    let outside = words
        .iter()
        .enumerate()
        .filter(|(index, word)| {
            !(at..at + len).contains(index)
                && !FILLERS.contains(&word.as_str())
                && !NEGATIONS.contains(&word.as_str())
                && *word != "do"
        })
        .count();
    0.5 + 0.5 * len as f32 / (len + outside) as f32
}

/// A number at the start of `words`, in digits or English words up to 199; how many words it took.
fn number(words: &[String]) -> Option<(f32, usize)> {
    if let Ok(value) = words.first()?.parse::<f32>() {
        return (value.is_finite() && (0.0..1000.0).contains(&value)).then_some((value, 1));
    }
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = [
        "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
    ];
    let small = |word: &str| SMALL.iter().position(|name| *name == word);
    let tens = |word: &str| {
        TENS.iter()
            .position(|name| *name == word)
            .map(|index| (index + 2) * 10)
    };
    let below_hundred = |words: &[String]| -> Option<(usize, usize)> {
        let first = words.first()?;
        if let Some(ten) = tens(first) {
            return Some(
                match words
                    .get(1)
                    .and_then(|word| small(word))
                    .filter(|unit| (1..10).contains(unit))
                {
                    Some(unit) => (ten + unit, 2),
                    None => (ten, 1),
                },
            );
        }
        small(first).map(|value| (value, 1))
    };
    if (words[0] == "a" || words[0] == "one") && words.get(1).is_some_and(|word| word == "hundred")
    {
        let skip = if words.get(2).is_some_and(|word| word == "and") {
            3
        } else {
            2
        };
        let (rest, used) = below_hundred(&words[skip.min(words.len())..]).unwrap_or((0, 0));
        return Some(((100 + rest) as f32, if used == 0 { 2 } else { skip + used }));
    }
    below_hundred(words).map(|(value, used)| (value as f32, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_mean_what_people_mean() {
        use Intent::*;
        for (sentence, intent, negated, why) in [
            ("Stop.", Some(Stop), false, "the word alone"),
            (
                "Please stop the car now!",
                Some(Stop),
                false,
                "with manners",
            ),
            ("Don't stop.", Some(Stop), true, "negated"),
            (
                "Don\u{2019}t stop.",
                Some(Stop),
                true,
                "typographic apostrophe",
            ),
            (
                "Do not under any circumstances stop here",
                Some(Stop),
                true,
                "negation at a distance",
            ),
            (
                "There is a bus stop ahead",
                None,
                false,
                "a noun is no command",
            ),
            ("Watch the stop sign", None, false, "nor is this"),
            (
                "Stop at the bus stop",
                Some(Stop),
                false,
                "the first one is",
            ),
            ("Pull over, please.", Some(PullOver), false, "punctuation"),
            ("Please slow down.", Some(SlowDown), false, ""),
            ("Not so fast", Some(SlowDown), false, "its not is its own"),
            ("Go faster.", Some(SpeedUp), false, ""),
            ("Don't go faster", Some(SpeedUp), true, ""),
            ("Change to the left lane", Some(LaneLeft), false, ""),
            ("Move to the right lane please", Some(LaneRight), false, ""),
            ("Take me to the main station", Some(Navigate), false, ""),
            ("Yes.", Some(Confirm), false, "whole sentence"),
            ("No.", Some(Cancel), false, "whole sentence"),
            ("Never mind.", Some(Cancel), false, "its never is its own"),
            ("Keep going.", Some(Keep), false, ""),
            (
                "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better.",
                None,
                false,
                "literature",
            ),
            (
                "It was the best of times, it was the worst of times",
                None,
                false,
                "literature",
            ),
            ("", None, false, "silence"),
        ] {
            let found = understand(sentence, &FastWords::default());
            assert_eq!(
                found.as_ref().map(|f| f.intent),
                intent,
                "{sentence:?} {why}"
            );
            assert_eq!(
                found.is_some_and(|f| f.negated),
                negated,
                "{sentence:?} {why}"
            );
        }
    }

    #[test]
    fn speeds_are_read_with_their_units() {
        for (sentence, mps) in [
            ("Drive at 50 kilometers per hour", 13.888_9),
            ("go thirty km/h", 8.333_3),
            ("Set the speed to twenty five miles per hour", 11.176),
            (
                "set speed to one hundred and twenty kilometers per hour",
                33.333_3,
            ),
            ("drive 7.5 m/s", 7.5),
        ] {
            let found = understand(sentence, &FastWords::default()).expect(sentence);
            assert_eq!(found.intent, Intent::SetSpeed, "{sentence}");
            assert!(
                (found.target_speed_mps - mps).abs() < 1e-2,
                "{sentence}: {}",
                found.target_speed_mps
            );
        }
        assert!(
            understand("the village is 50 kilometers away", &FastWords::default())
                .is_none_or(|f| f.confidence < 0.9)
        );
    }

    #[test]
    fn a_story_is_less_sure_than_a_command() {
        let confidence =
            |s: &str| understand(s, &FastWords::default()).map_or(0.0, |f| f.confidence);
        assert!(confidence("stop") > 0.95);
        assert!(confidence("my sister told me yesterday that her boss had to stop smoking") < 0.6);
        assert!(
            confidence("please stop right here next to the shop") >= 0.9,
            "a command may explain itself"
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,400}") {
            if let Some(found) = understand(&text, &FastWords::default()) {
                proptest::prop_assert!((0.0..=1.0).contains(&found.confidence));
                proptest::prop_assert!(found.destination.len() <= DESTINATION_BYTES_MAX);
            }
        }
    }
}
