//! Who gets how many turns, and when.

use super::*;

const LONG: Duration = Duration::from_secs(60);
const NO_TIME: Duration = Duration::ZERO;
const GREEDY: Owner = Owner::User(1);
const MODEST: Owner = Owner::User(2);

async fn try_for(shares: &Arc<Shares>, owner: Owner) -> Result<Turn, Exhausted> {
    scope(owner, shares.turn(NO_TIME)).await
}

/// Takes all turns that `owner` can get.
async fn all(shares: &Arc<Shares>, owner: Owner) -> Vec<Turn> {
    let mut turns = Vec::new();
    while let Ok(turn) = try_for(shares, owner).await {
        turns.push(turn);
    }
    turns
}

#[tokio::test]
async fn m5_no_user_takes_all_turns() {
    for (limit, most) in [(64, 48), (8, 6), (4, 3), (2, 1), (1, 1)] {
        let shares = Shares::new(limit);
        let greedy = all(&shares, GREEDY).await;
        assert_eq!(greedy.len(), most, "of {limit}");
        let modest = try_for(&shares, MODEST).await;
        assert_eq!(modest.is_ok(), limit > 1, "of {limit}");
        drop((greedy, modest));
        assert_eq!(shares.taken(), 0);
    }
    // Several are greedy, and a newcomer finds one.
    let shares = Shares::new(64);
    let mut turns = Vec::new();
    for uid in 0..8 {
        turns.push(all(&shares, Owner::User(uid)).await);
    }
    assert!(try_for(&shares, Owner::User(99)).await.is_ok());
    assert!(try_for(&shares, Owner::Service).await.is_ok());
}

#[tokio::test]
async fn m5_the_one_who_has_the_fewest_is_next() {
    let shares = Shares::new(2);
    // Service may take all.
    let mut held = vec![
        try_for(&shares, Owner::Service).await.unwrap(),
        try_for(&shares, Owner::Service).await.unwrap(),
    ];
    let wait = |owner| {
        let shares = Arc::clone(&shares);
        tokio::spawn(scope(owner, async move { shares.turn(LONG).await }))
    };
    let greedy: Vec<_> = (0..20).map(|_| wait(GREEDY)).collect();
    tokio::task::yield_now().await;
    let ahead = wait(Owner::Ahead);
    tokio::task::yield_now().await;
    let modest = wait(MODEST);
    while shares.state.lock().queues.len() < 3 {
        tokio::task::yield_now().await;
    }
    held.pop();
    held.pop();
    let modest = modest.await.unwrap().unwrap();
    assert_eq!(shares.taken(), 2, "one for each of the two users");
    assert!(!ahead.is_finished());
    for waiting in greedy {
        waiting.abort();
        let _ = waiting.await;
    }
    drop(modest);
    drop(ahead.await.unwrap().unwrap());
    assert_eq!(shares.taken(), 0);
    assert!(shares.state.lock().queues.is_empty());
}

#[tokio::test]
async fn m5_who_joins_waits_in_the_own_queue() {
    let shares = Shares::new(8);
    let greedy = all(&shares, GREEDY).await;
    let caller = Caller::new(GREEDY);
    let work = {
        let (shares, caller) = (Arc::clone(&shares), Arc::clone(&caller));
        tokio::spawn(scope_of(caller, async move { shares.turn(LONG).await }))
    };
    while shares.state.lock().queues.is_empty() {
        tokio::task::yield_now().await;
    }
    caller.join(Owner::Ahead);
    assert!(!work.is_finished());
    caller.join(MODEST);
    let turn = work.await.unwrap().unwrap();
    assert_eq!(turn.owner, MODEST);
    drop((greedy, turn));
    assert_eq!(shares.taken(), 0);
}

#[tokio::test]
async fn m5_a_refusal_names_the_share() {
    let shares = Shares::new(8);
    let _greedy = all(&shares, GREEDY).await;
    let error = try_for(&shares, GREEDY).await.unwrap_err().to_string();
    assert!(error.starts_with("user 1 has 6 of 8 turns, which is its share"), "{error}");
    let _service = all(&shares, Owner::Service).await;
    let error = try_for(&shares, MODEST).await.unwrap_err().to_string();
    assert!(error.starts_with("8 of 8 turns are taken (0 by user 2)"), "{error}");
}

#[tokio::test]
async fn m5_prefetch_leaves_half_and_gives_way() {
    let shares = Shares::new(8);
    let ahead = all(&shares, Owner::Ahead).await;
    assert_eq!(ahead.len(), 4);
    let user = all(&shares, GREEDY).await;
    assert_eq!(user.len(), 3);
    // Somebody waits: nothing for prefetch, though one is free.
    let waiting = {
        let shares = Arc::clone(&shares);
        tokio::spawn(scope(GREEDY, async move { shares.turn(LONG).await }))
    };
    while shares.state.lock().queues.is_empty() {
        tokio::task::yield_now().await;
    }
    drop(ahead);
    assert!(waiting.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_turn_that_nobody_takes_any_more_comes_back() {
    let shares = Shares::new(1);
    let turn = try_for(&shares, MODEST).await.unwrap();
    for _ in 0..3 {
        assert!(try_for(&shares, GREEDY).await.is_err());
    }
    drop(turn);
    assert_eq!(shares.taken(), 0);
    assert!(try_for(&shares, GREEDY).await.is_ok());
}
