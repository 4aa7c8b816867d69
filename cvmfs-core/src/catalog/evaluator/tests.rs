use std::sync::mpsc;

use futures_util::FutureExt as _;

use super::*;

/// A question that takes as long as it may.
fn endless(budget: &Budget) -> Result<(), CatalogError> {
    while budget.check().is_ok() {
        thread::yield_now();
    }
    Err(budget.spent())
}

#[tokio::test]
async fn h5_a_question_that_takes_long_is_asked_apart() {
    let evaluator = Evaluator::default();
    let here = thread::current().id();
    assert!(evaluator.briefly(endless).is_none(), "the brief budget ends");
    let there = evaluator.apart(|_| Ok(thread::current().id())).await.unwrap();
    assert_ne!(here, there);
    // What held up its caller is not asked there any more.
    let evaluator = Evaluator::default();
    let slow = evaluator.briefly(|_| {
        let end = used_by_thread() + SLOW + Duration::from_millis(1);
        while used_by_thread() < end {
            std::hint::spin_loop();
        }
        Ok(())
    });
    assert!(slow.unwrap().is_ok());
    assert!(evaluator.briefly(|_| Ok(())).is_none());
}

#[tokio::test]
async fn h5_questions_of_one_repository_do_not_hold_those_of_another() {
    let (slow, other) = (Evaluator::default(), Evaluator::default());
    let (started, begun) = mpsc::channel();
    let ask = || {
        let started = started.clone();
        slow.apart(move |budget| {
            let _ = started.send(());
            endless(budget)
        })
    };
    let mut waiting: Vec<_> = (0..8).map(|_| Box::pin(ask())).collect();
    for question in &mut waiting {
        assert!(question.as_mut().now_or_never().is_none());
    }
    for _ in 0..TURNS {
        begun.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    assert!(begun.try_recv().is_err(), "more than its turns");
    assert_eq!(other.apart(|_| Ok(7)).await.unwrap(), 7);
    // Nobody waits for them any more, so they end, and the turns are free.
    drop(waiting);
    assert_eq!(slow.apart(|_| Ok(8)).await.unwrap(), 8);
}

#[tokio::test]
async fn h5_a_defect_ends_one_question() {
    let evaluator = Evaluator::default();
    let answer = evaluator.apart(|_| -> Result<(), CatalogError> { panic!("on purpose") }).await;
    assert!(matches!(answer, Err(CatalogError::Crashed)));
    assert!(evaluator.apart(|_| Ok(())).await.is_ok());
}
