"""The table that stands beside a training: what each plan is."""

from kdrepro.chapters import display, presets


def test_plans_say_how_each_network_is_trained():
    sizes = presets.load("full").chapters
    mnist, specialists = sizes["02-mnist"], sizes["06-mixtures"].long
    kept = specialists.but(output="full", soft="class", temperature=2.0)
    table = display.plans(teacher=mnist.teacher, distilled=mnist.distilled, kept_knowledge=kept)
    assert list(table.index) == ["teacher", "distilled", "kept knowledge"]
    for name, plan in (("teacher", mnist.teacher), ("distilled", mnist.distilled), ("kept knowledge", kept)):
        row = table.loc[name]
        assert row["epochs"] == str(plan.recipe.epochs)
        assert row["batch"] == str(plan.recipe.batch_size)
        assert f"{plan.recipe.learning_rate:g}" in row["rate"]
        assert row["T"] == (f"{plan.temperature:g}" if plan is not mnist.teacher else "–")
    assert table.loc["distilled", "soft weight"] == f"{mnist.distilled.soft_weight:g}"
    assert f"max-norm {mnist.teacher.recipe.max_norm:g}, jitter {mnist.teacher.jitter}" in table.loc["teacher", "also"]
    assert table.loc["kept knowledge", "targets"] == "hard, and soft by class"


def test_a_plan_shows_what_moves_its_images_and_averages_its_weights():
    generalist = presets.load("full").chapters["05-specialists"].generalist
    also = display.plans(net=generalist.but(channels=[8, 16], blocks=[0, 2], cutout=8, averaging=0.99)).loc[
        "net", "also"
    ]
    assert also == "weight decay 0.1, jitter 3, cutout 8, blocks 0 – 2, averaging 0.99"
    part = presets.load("full").chapters["06-mixtures"].long
    assert "share of each class 0.1" in display.plans(part=part.but(fraction=0.1)).loc["part", "also"]
    assert "share" not in display.plans(part=part.but(fraction=1.0)).loc["part", "also"]
