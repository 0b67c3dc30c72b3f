//! A program of the standard library alone, for tests: it knows nothing of stagehost. Its first argument says what it does.
#![expect(clippy::print_stdout, reason = "an ordinary program")]

use std::io::{self, Read, Write};

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let code = args.get(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    match args.first().map_or("pass", String::as_str) {
        "pass" => _ = io::copy(&mut io::stdin(), &mut io::stdout())?,
        "upper" => {
            let mut text = Vec::new();
            io::stdin().read_to_end(&mut text)?;
            text.make_ascii_uppercase();
            io::stdout().write_all(&text)?;
        }
        "exit" => std::process::exit(code),
        "copy-exit" => {
            io::copy(&mut io::stdin(), &mut io::stdout())?;
            std::process::exit(code);
        }
        "panic" => panic!("the program gave up"),
        "spin" => loop {
            std::hint::black_box(());
        },
        "yes" => loop {
            io::stdout().write_all(b"y\n")?;
        },
        "args" => args[1..].iter().for_each(|arg| println!("{arg}")),
        "env" => std::env::vars().for_each(|(key, value)| println!("{key}={value}")),
        "read" => println!("{:?}", std::fs::read(&args[1]).map_err(|error| error.kind())),
        "late" => {
            print!("no newline, no flush");
        }
        _ => std::process::exit(2),
    }
    Ok(())
}
