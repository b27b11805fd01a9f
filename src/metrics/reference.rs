//! The tables of `docs/metrics.md`, made from the definitions.

use std::fmt::{self, Write};

use crate::metrics::definitions::differences::{BEYOND, DIFFERENCES};
use crate::metrics::definitions::left_out::LEFT_OUT;
use crate::metrics::definitions::{
    Buckets, DEFAULT_OMNI_PREFIX, Definition, GROUPS, Kind, labels::MODEL_NAME,
};

/// The line of the page behind which the tables stand; what is before it is written by hand.
pub const MARK: &str = "<!-- From here on written by `omni-actors docs metrics`. -->\n";

/// The page with this text, its tables written anew. A page without the mark gets it at its end.
pub fn page_with_tables(page: &str) -> String {
    let by_hand = page.split_once(MARK).map_or(page, |(by_hand, _)| by_hand);
    let mut page = format!("{by_hand}{MARK}");
    // Writing to a string cannot fail.
    let _ = write_tables(&mut page);
    page
}

fn write_tables(page: &mut String) -> fmt::Result {
    page.write_str(
        "\n## Families\n\n\
         A star marks what neither vLLM-Omni nor vLLM has. `+Inf` ends every list of buckets. Labels are named without \
         `model_name`, which all families have that begin with `vllm:`.\n",
    )?;
    for group in GROUPS {
        write!(page, "\n### {}\n\n{}\n\n", group.title, group.condition)?;
        page.write_str(
            "| family | type | unit | labels | what it is | moves when |\n|---|---|---|---|---|---|\n",
        )?;
        for definition in group.families {
            write_row(page, definition)?;
        }
    }
    write_buckets(page)?;
    write_differences(page)?;
    write_left_out(page)
}

fn write_row(page: &mut String, definition: &Definition) -> fmt::Result {
    let name = definition.name(DEFAULT_OMNI_PREFIX);
    let star = if BEYOND.contains(&definition) { " *" } else { "" };
    let (kind, unit) = (definition.kind.as_str(), definition.unit.as_str());
    let labels = definition.labels.iter().filter(|label| **label != MODEL_NAME);
    let labels: Vec<_> = labels.map(|label| format!("`{}`", label.name)).collect();
    let labels = labels.join(", ");
    writeln!(
        page,
        "| `{name}`{star} | {kind} | {unit} | {labels} | {} | {} |",
        definition.help, definition.moves
    )
}

/// The lists of buckets, each with the families that have it.
fn write_buckets(page: &mut String) -> fmt::Result {
    page.write_str("\n## Buckets\n\n| bounds | families |\n|---|---|\n")?;
    let mut lists: Vec<(Buckets, Vec<String>)> = Vec::new();
    for definition in GROUPS.iter().flat_map(|group| group.families) {
        let Kind::Histogram(buckets) = definition.kind else { continue };
        let name = format!("`{}`", definition.name(DEFAULT_OMNI_PREFIX));
        match lists.iter_mut().find(|(known, _)| *known == buckets) {
            Some((_, families)) => families.push(name),
            None => lists.push((buckets, vec![name])),
        }
    }
    for (buckets, families) in lists {
        let bounds = match buckets {
            Buckets::Fixed(bounds) => {
                bounds.iter().map(|bound| bound.to_string()).collect::<Vec<_>>().join(" ")
            }
            Buckets::OneTwoFive => "1 2 5 10 20 50 … up to the stage's `max_model_len`".to_owned(),
        };
        writeln!(page, "| {bounds} | {} |", families.join(", "))?;
    }
    Ok(())
}

fn write_differences(page: &mut String) -> fmt::Result {
    page.write_str(
        "\n## What is otherwise than in vLLM-Omni\n\n| families | in what | why |\n|---|---|---|\n",
    )?;
    for difference in DIFFERENCES {
        let names =
            difference.families.iter().map(|family| format!("`{}`", family.name(DEFAULT_OMNI_PREFIX)));
        let aspects: Vec<_> = difference.aspects.iter().map(|aspect| aspect.as_str()).collect();
        let names = names.collect::<Vec<_>>().join(", ");
        writeln!(page, "| {names} | {} | {} |", aspects.join(" and "), difference.reason)?;
    }
    Ok(())
}

fn write_left_out(page: &mut String) -> fmt::Result {
    page.write_str("\n## What is left out\n\n| why | families, by their names there |\n|---|---|\n")?;
    for group in LEFT_OUT {
        let names: Vec<_> = group.families.iter().map(|name| format!("`{name}`")).collect();
        writeln!(page, "| {} | {} |", group.reason, names.join(", "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_guide_are_those_of_the_definitions() {
        let guide = include_str!("../../docs/metrics.md");
        let due = page_with_tables(guide);
        assert!(guide == due, "`omni-actors docs metrics` writes docs/metrics.md anew");
    }

    #[test]
    fn what_is_written_by_hand_stays_and_the_tables_are_written_once() {
        let once = page_with_tables("By hand.\n");
        assert!(once.starts_with("By hand.\n"));
        assert_eq!(page_with_tables(&once), once);
        for definition in GROUPS.iter().flat_map(|group| group.families) {
            assert!(once.contains(&format!("| `{}`", definition.name(DEFAULT_OMNI_PREFIX))));
        }
    }
}
