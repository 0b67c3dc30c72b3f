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
        "panic-in-panic" => {
            struct Evil;
            impl std::fmt::Display for Evil {
                fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    panic!("while it is printed")
                }
            }
            panic!("{Evil}")
        }
        "spin" => loop {
            std::hint::black_box(());
        },
        "yes" => loop {
            io::stdout().write_all(b"y\n")?;
        },
        "args" => args[1..].iter().for_each(|arg| println!("{arg}")),
        "env" => std::env::vars().for_each(|(key, value)| println!("{key}={value}")),
        "read" => println!("{:?}", std::fs::read(&args[1]).map_err(|error| error.kind())),
        "write" => println!("{:?}", std::fs::write(&args[1], "written").map_err(|error| error.kind())),
        "list" => {
            let mut names: Vec<_> = std::fs::read_dir(&args[1])?.flatten().map(|entry| entry.file_name()).collect();
            names.sort();
            println!("{names:?}");
        }
        "count" => println!("{} entries", std::fs::read_dir(&args[1])?.count()),
        "empty" => {
            for entry in std::fs::read_dir(&args[1])? {
                std::fs::remove_file(entry?.path())?;
            }
            println!("{} are left", std::fs::read_dir(&args[1])?.count());
        }
        "rename" => println!("{:?}", std::fs::rename(&args[1], &args[2]).map_err(|error| error.kind())),
        "link" => println!("{:?}", std::fs::hard_link(&args[1], &args[2]).map_err(|error| error.kind())),
        "open-many" => {
            let mut files = Vec::new();
            while let Ok(file) = std::fs::File::open(&args[1]) {
                files.push(file);
            }
            println!("{}", files.len());
        }
        "connect" => {
            for address in &args[1..] {
                println!("{:?}", std::net::TcpStream::connect(address).map(drop).map_err(|error| error.kind()));
            }
        }
        "send" => {
            let sent = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"hello", &args[1]));
            println!("{:?}", sent.map_err(|error| error.kind()));
        }
        "bind" => println!("{:?}", std::net::UdpSocket::bind(&args[1]).map(drop).map_err(|error| error.kind())),
        "listen" => println!("{:?}", std::net::TcpListener::bind(&args[1]).map(drop).map_err(|error| error.kind())),
        "now" => {
            let since = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            println!("{:?} {:?}", since().map_err(io::Error::other)?, since().map_err(io::Error::other)?);
        }
        "sleep" => {
            let before = std::time::Instant::now();
            std::thread::sleep(std::time::Duration::from_secs(3600));
            println!("{}", before.elapsed().as_secs());
        }
        "hash" => {
            use std::hash::{BuildHasher, RandomState};
            println!("{}", RandomState::new().hash_one(1));
        }
        "late" => {
            print!("no newline, no flush");
        }
        _ => std::process::exit(2),
    }
    Ok(())
}
