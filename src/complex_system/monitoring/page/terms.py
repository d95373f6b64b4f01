"""What the terms of the page mean, a sentence each, and how the page names those who asked for predictions."""

from __future__ import annotations

from complex_system.protocol.serving import ORIGIN_LABELS

TERMS = {
    "RMSE": "Root mean squared error: the size of an error, in the target's unit; large errors count more than small ones.",
    "MAE": "Mean absolute error, in the target's unit.",
    "Bias": "Mean of prediction minus true value: above 0 the model predicts too much.",
    "R²": "Share of the target's variance that the predictions explain: 1 is exact, 0 is as good as the mean.",
    "Best possible": "The error of the best model that these features allow; known only where the records are simulated.",
    "Hold-out": "Labelled records that no trainer has seen, and on which models are compared.",
    "Cross-validation": "Each model is trained several times without a part of the records; its error is that on these parts.",
    "95 % interval": "In about 95 of 100 such comparisons this range contains the model's error on all records of this kind.",
    "Baseline": "What takes no learning: always the mean of the target, or a linear model.",
    "Candidate": "The winner of a round that a person has to approve before it becomes champion.",
    "Pin": "While the champion is pinned, no round changes it.",
    "Roll back": "Make an earlier champion the champion again. No round crowns the version that was rolled back.",
    "Live predictions": "What clients asked for, compared with the value that was measured later.",
    "Own requests": "What this system asks for stored hold-out records. The same records decided the comparison, so these errors "
    "can show that something broke, and do not show that the model is good.",
    "Probes": "What this system asks for records that its simulated laboratory makes and measures. They are not from a plant.",
    "Shadow": "A challenger: it predicts the same requests and its predictions are not used.",
    "Importance": "By how much the RMSE on hold-out records grows where a column's values are exchanged among them. Columns that say "
    "the same share it.",
    "Effect": "How the prediction changes with a column, on the average of known records: accumulated local effects of a number, "
    "partial dependence on a category. It describes the model, and not what causes the target.",
    "Contribution": "A column's Shapley value: its share of the difference between this prediction and the mean prediction of known "
    "records, over all orders in which the columns can become known. It describes the model, and not what causes the target.",
    "Distance": "How far a record is from the nearest known one: above 1, further than 95 % of the known ones are from their nearest.",
    "90 % interval": "Prediction plus and minus a half width: made to hold 9 of 10 true values of such records.",
    "Coverage": "Share of the true values that lie within the 90 % intervals of the champion.",
    "Far records": "Further from the champion's training data than 99 % of these are from each other.",
    "Residual": "Prediction minus true value.",
    "PSI": "Population stability index: how far two sets of values differ in their distribution over the same bins. By convention "
    "below 0.1 is stable and above 0.25 a major change; of few records it is above both by chance.",
    "Evidence": "How sure it is that a column no longer comes from where the training data come from: evidence of 6 occurs by chance "
    "once in 10^6 independent records, all features together, however often one looks.",
    "Reference": "The records that the champion was trained on; before the first champion, the labelled records of the database.",
    "KS p": "Kolmogorov and Smirnov's test: the probability of a difference at least this large if nothing has changed.",
    "Wasserstein": "How far the values moved on average, in standard deviations of the reference.",
    "Out of range": "Share of values outside of the range that the data set declares.",
    "p50, p95, p99": "The time within which 50, 95 and 99 of 100 requests were answered.",
    "Restarts": "How often a process took the place of one that had ended without saying so. What was stopped and started again, such "
    "as the whole system, does not count.",
    "Heartbeat": "Time since the last heartbeat, of the replica that was heard from least recently.",
}


def requests_of(origin: str) -> str:
    """Return what predictions are called by who asked for them."""
    return ORIGIN_LABELS.get(origin, origin)


def short(origin: str) -> str:
    """Return the same for a legend."""
    return {"live": "live", "": "origin unknown"}.get(origin) or requests_of(origin)
