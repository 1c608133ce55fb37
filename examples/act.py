"""Act with the policy of a run: ``python examples/act.py runs/point``."""

from __future__ import annotations

import sys

import prelar_ray


def episode_return(path: str, seed: int = 0) -> float:
    """Return the undiscounted return of one episode of the run's task."""
    run = prelar_ray.load_run(path)  # neither Ray nor a simulator is loaded
    env, agent = run.make_env(seed), run.agent(seed)
    observation, _ = env.reset()
    agent.reset()
    total, done = 0.0, False
    while not done:
        observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
        total += float(reward)
        done = terminated or truncated
    env.close()
    return total


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"return {episode_return(sys.argv[1]):.1f}")
