"""What Python code uses; ``import vr_eval`` offers all of it. Thin: every function calls what the command line calls.

A model and a question in two lines::

    lvlm = vr_eval.load_model("me/my-checkpoint")  # or: model, processor = ...
    print(lvlm.ask("page.png", "What is the total?"))

A run and its table::

    run_dir = vr_eval.run("projectors")
    vr_eval.read_records(run_dir).groupby(["label", "suite"])["score"].mean()

=================  =====================================================================================
`models`           ``load_model``, ``Loaded.ask``, and ``wrap`` around a model of transformers
`runs`             ``load_grid``, ``run``, ``read_records``, ``report``
`autoclasses`      ``AutoModel.from_pretrained`` and its like know our checkpoints after ``import vr_eval``
=================  =====================================================================================
"""
